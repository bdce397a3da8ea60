"""Short distillation: a pruned model learns to give the features of the model it came from, on unlabelled pictures.

What is compared are the features that a head reads and the tokens that they are pooled from, after the final norm,
so that the result serves any head (Romero et al., "FitNets: Hints for Thin Deep Nets", arXiv 1412.6550). The loss is
relative: the squared distance over the variance of the teacher's features in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from edgeplast.compression.pictures import Pictures, batch_of, endless
from edgeplast.errors import InputError
from edgeplast.progress import Progress, silent

LEARNING_RATE = 5e-4
"""Peak, of AdamW with a linear warm-up over a tenth of the steps and a cosine to zero."""


class Distillation:
    """Training that can be cut into pieces, with pruning in between.

    Attributes:
        losses: one a step so far.
    """

    def __init__(
        self,
        teacher: torch.nn.Module,
        images: Pictures,
        steps: int,
        *,
        batch_size: int = 16,
        learning_rate: float = LEARNING_RATE,
        seed: int = 0,
        device: torch.device | None = None,
        progress: Progress = silent,
    ) -> None:
        """Prepare.

        Args:
            teacher: in evaluation mode; not changed, but moved to ``device`` while it is asked.
            images: unlabelled pictures.
            steps: of all pieces together.
            batch_size: pictures a step.
            learning_rate: at its peak.
            seed: of the order of the pictures.
            device: where to train; by default the processor.
            progress: told of each step.
        """
        self.losses: list[float] = []
        self._teacher, self._images, self._steps = teacher, images, steps
        self._rate, self._progress = learning_rate, progress
        self._device = device or torch.device("cpu")
        self._order: Iterator[list[int]] = endless(images, min(batch_size, len(images)), seed)

    def run(self, student: torch.nn.Module, until: int) -> None:
        """Train a model in place until so many steps are done in all.

        Raises:
            InputError: the loss is not finite.
        """
        student.to(self._device).train(False)  # no dropout: what is matched is what is deployed
        teacher = self._teacher.to(self._device)
        trained = [p.requires_grad_(True) for p in student.parameters()]
        optimizer = torch.optim.AdamW(trained, lr=self._rate, weight_decay=0.01)
        while len(self.losses) < until:
            done = len(self.losses)
            self._progress("distilling", done, self._steps)
            for group in optimizer.param_groups:
                group["lr"] = self._rate * _schedule(done, self._steps)
            images = batch_of(student, self._images, next(self._order)).to(self._device)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=_has_bfloat16(self._device)):
                with torch.no_grad():
                    wanted = _features(teacher, images)
                with torch.enable_grad():
                    given = _features(student, images)
            loss = torch.stack([_distance(a, b) for a, b in zip(given, wanted, strict=True)]).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if not torch.isfinite(loss):
                raise InputError(
                    f"Distillation broke down at step {done + 1}: its loss is not finite. Prune less, or leave "
                    "--distill-steps out."
                )
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            self.losses.append(float(loss.detach()))
        self._progress("distilling", len(self.losses), self._steps)
        student.cpu()
        self._teacher.cpu()
        student.zero_grad(set_to_none=True)


def _schedule(done: int, steps: int) -> float:
    warm = max(1, steps // 10)
    if done < warm:
        return (done + 1) / warm
    return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * (done - warm) / max(1, steps - warm)))))


def _has_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster than in float32; weights, loss and optimizer stay float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def _features(model: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens (B, N, D) after the final norm, and what the head reads of them, (B, D)."""
    tokens = model.forward_features(images)
    return tokens, model.forward_head(tokens, pre_logits=True)


def _distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    student, teacher = student.float(), teacher.float()
    spread = (teacher - teacher.mean(dim=0, keepdim=True)).square().mean().clamp_min(1e-8)
    return (student - teacher).square().mean() / spread

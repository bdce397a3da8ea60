"""What a fleet does: the values in ``[tool.flwr.app.config]`` of its app, the same for the server and every device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from edgeplast.errors import InputError, UsageError, one_of
from edgeplast.fleet.updates import TRAVEL
from edgeplast.units import parse_bytes

STRATEGIES = ("fedavg", "fedprox", "fedadam")
PRIVACY = ("none", "central", "central-on-device", "local")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """One fleet's settings.

    Attributes:
        bundle: folder of the bundle that the fleet starts from, on the server (and of simulated devices).
        output: folder for a bundle after each round and the report, on the server.
        rounds: how often devices learn and the server averages.
        local_steps: optimizer steps of a device in a round.
        batch: pictures a step is computed from; 0 takes the plan's.
        learning_rate: of the first round, it falls to 0 over the rounds as half a cosine; 0 chooses by what trains.
        strategy: ``fedavg``, ``fedprox`` or ``fedadam``, Flower's own.
        proximal: µ of FedProx.
        server_rate: learning rate of the server with FedAdam.
        travel: what updates are rounded to: ``float32``, ``float16`` or ``int8``; error feedback makes up for it.
        share: of the devices that are there, in each round.
        least_devices: without so many a round waits.
        round_seconds: after which who has not answered has dropped out.
        largest_norm: updates of more than so many times the largest median norm of the rounds so far are left out; 0
            takes any.
        secure: whether the server learns sums alone (SecAgg+).
        privacy: ``none``; ``central``: the server clips updates and adds noise to the mean; ``central-on-device``:
            devices clip, the server adds noise; ``local``: devices clip and add noise.
        clipping_norm: of updates with any privacy.
        noise: noise multiplier of central privacy.
        epsilon, delta: of local privacy, in a round.
        seed: of everything that is drawn by edgeplast.
        memory: what a simulated device's process may hold; empty: no limit. Real devices say that themselves.
        data: pictures that are dealt out to simulated devices.
        spread: concentration of the Dirichlet distribution by which they are dealt.
        test: pictures on which the server measures each round's model; empty: it does not. Its ``test`` split is used
            where there is one.
        trusted: public keys on the server, of which one must have signed the bundle; empty: nobody is asked. Real
            devices say that themselves.
        sign: private key on the server that signs each round's bundle; empty: none does.
    """

    bundle: str
    output: str
    rounds: int = 10
    local_steps: int = 8
    batch: int = 0
    learning_rate: float = 0.0
    strategy: str = "fedavg"
    proximal: float = 0.1
    server_rate: float = 0.003
    travel: str = "float32"
    share: float = 1.0
    least_devices: int = 2
    round_seconds: float = 3600.0
    largest_norm: float = 10.0
    secure: bool = False
    privacy: str = "none"
    clipping_norm: float = 1.0
    noise: float = 0.1
    epsilon: float = 100.0
    delta: float = 1e-5
    seed: int = 0
    memory: str = ""
    data: str = ""
    spread: float = 0.3
    test: str = ""
    trusted: str = ""
    sign: str = ""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("rounds", 1, 100_000), ("local_steps", 1, 1_000_000), ("batch", 0, 65_536), ("learning_rate", 0, 1e3),
            ("proximal", 0, 1e6), ("server_rate", 0, 1e3), ("share", 0, 1), ("least_devices", 1, 1_000_000),
            ("round_seconds", 1, 1e8), ("largest_norm", 0, 1e9), ("clipping_norm", 1e-9, 1e9), ("noise", 0, 1e6),
            ("epsilon", 1e-9, 1e9), ("delta", 1e-30, 1), ("seed", 0, 2**31), ("spread", 1e-6, 1e6),
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high or not math.isfinite(value):
                key = name.replace("_", "-")
                raise UsageError(f"{key} = {value:g} is out of range; allowed is {low:g} to {high:g}.")
        for name, given, allowed in (
            ("strategy", self.strategy, STRATEGIES), ("travel", self.travel, TRAVEL), ("privacy", self.privacy, PRIVACY)
        ):  # fmt: skip
            if given not in allowed:
                raise one_of(name, given, allowed)
        if self.memory:
            parse_bytes(self.memory)
        if self.secure and (self.strategy == "fedadam" or self.travel != "float32" or self.privacy != "none"):
            raise UsageError(
                "secure = true hides each update, so the server can neither unpack nor clip one: give it strategy "
                f'fedavg or fedprox, travel = "float32" and privacy = "none" (here {self.strategy}, {self.travel}, '
                f"{self.privacy})."
            )
        if self.secure and self.least_devices < 3:
            raise UsageError(
                f"secure = true needs least-devices of 3 or more (here {self.least_devices}): of two, each would know "
                "the other's update from the sum."
            )

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Settings:
        """Read the values of an app.

        Raises:
            UsageError: one is out of range.
            InputError: one is of another kind, unknown or missing.
        """
        try:
            return msgspec.convert(dict(config), cls, strict=False)
        except msgspec.ValidationError as error:
            cause = error.__cause__
            if isinstance(cause, UsageError):
                raise cause from None
            raise InputError(
                f"The app's pyproject.toml, [tool.flwr.app.config], cannot be used: {str(error).rstrip('.')}. "
                "Write the app again: edgeplast fleet init bundle/ -o fleet/ --force"
            ) from error

    def config(self) -> dict[str, bool | int | float | str]:
        """Return the values as an app holds them, by the names that they have there."""
        return msgspec.to_builtins(self)

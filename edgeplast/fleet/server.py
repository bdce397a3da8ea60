"""Flower's ServerApp: the rounds, by a strategy of Flower's, with a bundle and a report after each."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeplast.fleet.client import simulated_folder
from edgeplast.fleet.flower import EXAMPLES, log, record_of, require_flower
from edgeplast.fleet.outcome import Outcome
from edgeplast.fleet.rates import Rates
from edgeplast.fleet.settings import Settings
from edgeplast.given import signed_bundle
from edgeplast.outputs import only_writer

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp


def server_app() -> ServerApp:
    """Return the app of the server."""
    require_flower()
    from flwr.serverapp import ServerApp

    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        lead(grid, context)

    return app


def lead(grid: Grid, context: Context) -> None:
    """Lead the rounds that are left.

    Raises:
        EdgeplastError: bundle, settings or output cannot be used.
    """
    settings = Settings.of(context.run_config)
    bundle, seal = signed_bundle(settings.bundle, settings.trusted or None, settings.sign or None)
    output = Path(settings.output)
    with only_writer(output):
        outcome = Outcome(output, bundle, settings, seal)
        left = settings.rounds - outcome.rounds
        if left <= 0:
            log.info("All %d rounds of %s are done.", settings.rounds, output)
            return
        if outcome.rounds:
            log.info("Going on after round %d of %s.", outcome.rounds, output)
        weights, rates = outcome.weights(), Rates.of(bundle, settings)
        if settings.secure:
            from edgeplast.fleet.secure import lead_secured

            lead_secured(grid, context, outcome, rates, weights)
        else:
            from edgeplast.fleet.strategy import Checked

            strategy = Checked(chosen(settings), outcome, settings, rates)
            strategy.start(grid, record_of(weights), num_rounds=left, timeout=settings.round_seconds)
    shutil.rmtree(simulated_folder(context.run_id), ignore_errors=True)
    log.info("Done: %s", outcome.path_of(outcome.rounds))


def chosen(settings: Settings) -> Any:
    """Return the strategy of Flower's that the settings name, in Flower's wrapper for central privacy if asked for."""
    from flwr.serverapp import strategy as flower

    how: dict[str, Any] = {
        "fraction_train": settings.share,
        "fraction_evaluate": 1.0,
        "min_train_nodes": settings.least_devices,
        "min_evaluate_nodes": 1,
        "min_available_nodes": settings.least_devices,
        "weighted_by_key": EXAMPLES,
    }
    if settings.strategy == "fedprox":
        strategy: Any = flower.FedProx(**how, proximal_mu=settings.proximal)
    elif settings.strategy == "fedadam":
        strategy = flower.FedAdam(**how, eta=settings.server_rate)
    else:
        strategy = flower.FedAvg(**how)
    wrappers = {
        "central": flower.DifferentialPrivacyServerSideFixedClipping,
        "central-on-device": flower.DifferentialPrivacyClientSideFixedClipping,
    }
    if settings.privacy in wrappers:
        return wrappers[settings.privacy](strategy, settings.noise, settings.clipping_norm, settings.least_devices)
    return strategy

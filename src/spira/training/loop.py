"""Stage `train`: the whole training run, read from top to bottom.

Axis letters: N windows of a recording, T frames of a window, C coefficients of a frame.
"""

import ctypes
import io
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from spira.audio.noise import NoNoise
from spira.domain.draws import draw_seed, draws
from spira.domain.errors import InputError
from spira.domain.fingerprint import canonical_json
from spira.domain.progress import Progress, no_progress
from spira.domain.recordings import SIDES
from spira.model.networks import build
from spira.training.examples import Example, Examples, prefetched
from spira.training.experiments import Adam, Optimisation
from spira.training.features import FeatureSet
from spira.training.plan import Files, Work
from spira.training.settings import TrainingSettings
from spira.training.tables import AMBIENT, placed

_NO_LOSS = float("inf")
_WINDOWS_AT_ONCE = 32  # of one recording; SpiraConv keeps about 12 MB a window for the way back


@dataclass
class State:
    """Where training stands; all of it is in a checkpoint, so a resumed run is the same run.

    There is no random state beside these: every draw is a function of seed, purpose, epoch and
    recording (`spira.domain.draws`), torch's generator is seeded anew for each recording, and the
    rate is a function of the step.
    """

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    loss_sum: float = 0.0  # over the batches of this epoch that are done
    best_loss: float = _NO_LOSS
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def fit(
    examples: Examples,
    *,
    fabric: Fabric,
    load: Callable[[], bytes | None] = lambda: None,
    save: Callable[[bytes], None] = lambda data: None,
    save_every_s: float = 5.0,
    progress: Progress = no_progress,
) -> State:
    """Fit the experiment's network and keep the weights of the lowest validation loss.

    load, save  read and write the one checkpoint of this run
    returns     the final state: `best` weights by name, `history` of losses by epoch
    raises      InputError when the loss stops being a number
    """
    experiment, plan = examples.experiment, examples.experiment.optimisation
    train, validation = examples.sides["train"], examples.sides["validation"]
    batches = len(train) // plan.batch_recordings or 1
    if not plan.drop_last and len(train) > batches * plan.batch_recordings:
        batches += 1

    first = examples.training_windows(train[0], 0)  # [N, T, C]
    torch.manual_seed(draw_seed(experiment.seed, "weights"))
    network = build(experiment.network, frames=first.shape[1], coefficients=first.shape[2])
    optimiser = _optimiser(network, plan)
    state = State()
    checkpoint = load()
    if checkpoint is None and network.standardises:
        network.set_standardisation(*_coefficient_statistics(examples))
    network, optimiser = fabric.setup(network, optimiser)
    if checkpoint is not None:  # after the move to the device, where the optimiser's state goes too
        state = _restore(checkpoint, network, optimiser)
    saved_at = time.monotonic()

    while state.epoch < plan.epochs:
        order = draws(experiment.seed, "order", state.epoch).permutation(len(train))
        size = plan.batch_recordings
        todo = [order[i * size : (i + 1) * size] for i in range(state.batch, batches)]
        network.train()
        for batch in prefetched(todo, lambda rows: _read(examples, rows, state.epoch), ahead=3):
            windows = sum(len(features) for _, features in batch)
            step = state.epoch * batches + state.batch + 1
            for group in optimiser.param_groups:
                group["lr"] = plan.optimiser.rate * plan.schedule.factor(
                    step, plan.epochs * batches
                )
            optimiser.zero_grad()
            for example, features in batch:  # one at a time: the same gradient, half the memory
                torch.manual_seed(_dropout_seed(experiment.seed, state.epoch, example))
                for part in _parts(features):
                    logits = network(_on(fabric, part))  # [N]
                    target = torch.full_like(logits, float(example.present))
                    loss = cross_entropy(logits, target, reduction="sum") / windows
                    fabric.backward(loss)
                    state.loss_sum += loss.item()
            optimiser.step()
            state.batch += 1
            if time.monotonic() - saved_at >= save_every_s:
                save(_checkpoint(state, network, optimiser))
                saved_at = time.monotonic()

        loss_now = validation_loss(network, examples, validation, fabric)
        if not math.isfinite(loss_now + state.loss_sum):
            raise InputError(
                f"training diverged in epoch {state.epoch + 1}: the loss is not a number any more; "
                "lower optimisation.optimiser.rate"
            )
        state.history.append(
            {"epoch": state.epoch, "train": state.loss_sum / batches, "validation": loss_now}
        )
        if loss_now < state.best_loss:
            state.best_loss = loss_now
            state.best = {name: value.cpu().clone() for name, value in network.state_dict().items()}
        state.epoch, state.batch, state.loss_sum = state.epoch + 1, 0, 0.0
        progress("training", state.epoch, plan.epochs)
    return state


def validation_loss(
    network: torch.nn.Module, examples: Examples, recordings: Sequence[Example], fabric: Fabric
) -> float:
    """Mean cross entropy of the recordings' probabilities, each the mean of its windows'."""
    network.eval()
    losses = []
    with torch.inference_mode():
        for example, features in prefetched(
            recordings, lambda one: (one, examples.validation_windows(one)), ahead=8
        ):
            logits = torch.cat([network(_on(fabric, part)) for part in _parts(features)])
            probability = logits.double().sigmoid().mean()
            chance = probability if example.present else 1 - probability
            losses.append(-torch.log(chance.clamp_min(1e-7)).item())
    return float(np.mean(losses))


def train(work: Work) -> tuple[Files, dict[str, Any]]:
    """Fit the network on the training side, choosing its best epoch on the validation side.

    files     weights.safetensors; history.json: losses by epoch
    raises    InputError when the accelerator is not there
    """
    from safetensors.torch import save as to_safetensors

    fabric = launch(work.plan.training)
    recordings, noises = placed(work)
    spoken = recordings.filter(~recordings["utterance"].is_in(AMBIENT))
    missing = [side for side in ("train", "validation") if not noises[side]]
    if missing and not isinstance(work.experiment.noise, NoNoise):
        raise InputError(
            f"dataset {work.plan.dataset[:12]}: no noise recording is on side "
            f"{' or '.join(missing)}, and the experiment adds noise; import at least three noise "
            "recordings, or use noise.kind: none"
        )
    sides = {
        side: [
            Example(row["recording_id"], row["sha256"], row["label"] == "present")
            for row in spoken.filter(spoken["placed"] == side).iter_rows(named=True)
        ]
        for side in SIDES
    }
    examples = Examples(work.experiment, FeatureSet(work.input("features")), sides, noises)
    state = fit(
        examples,
        fabric=fabric,
        load=lambda: work.store.load_scratch(work.fingerprint, "checkpoint"),
        save=lambda data: work.store.save_scratch(work.fingerprint, "checkpoint", data),
        save_every_s=work.plan.training.checkpoint_every_s,
        progress=work.progress,
    )
    return {
        "weights.safetensors": to_safetensors(state.best),
        "history.json": canonical_json(state.history),
    }, {"epochs": len(state.history), "best_validation_loss": state.best_loss}


def launch(settings: TrainingSettings) -> Fabric:
    """Fabric on the chosen device, repeatable there, with as many threads as the settings say.

    raises    InputError when the device is not there
    """
    require_device(settings)
    if settings.accelerator == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # repeatable matrix products
        # TF32 keeps ten bits of what a convolution multiplies: losses are off by up to 1e-3 then,
        # and networks of this size are no faster. Lightning advises it at every start.
        torch.backends.cudnn.allow_tf32 = False
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    _keep_memory()
    torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(True)
    fabric = Fabric(accelerator=settings.accelerator, devices=1)
    fabric.launch()
    return fabric


def require_device(settings: TrainingSettings) -> None:
    """Raise InputError where the accelerator of the settings is not there."""
    if settings.accelerator == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "training.accelerator is cuda, but no CUDA device is to be seen; "
            "use --setting training.accelerator=cpu"
        )


def _keep_memory() -> None:
    """Tell glibc to keep freed memory: half of the time of such training is mmap and munmap."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in ((-3, 2**31 - 1), (-1, 2**31 - 1), (-2, 256 << 20)):
            libc.mallopt(option, value)  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD


def _read(examples: Examples, rows: Any, epoch: int) -> list[tuple[Example, Any]]:
    chosen = [examples.sides["train"][row] for row in rows]
    return [(example, examples.training_windows(example, epoch)) for example in chosen]


def _parts(features: Any) -> Iterator[Any]:
    """[N, T, C] in pieces of bounded N: an hour's recording trains in the memory of a minute's."""
    for first in range(0, len(features), _WINDOWS_AT_ONCE):
        yield features[first : first + _WINDOWS_AT_ONCE]


def _on(fabric: Fabric, features: Any) -> torch.Tensor:
    """[N, T, C] array to [N, 1, T, C] tensor on the device."""
    tensor = torch.from_numpy(np.require(features, requirements=["C", "W"])).unsqueeze(1)
    return fabric.to_device(tensor)


def _dropout_seed(seed: int, epoch: int, example: Example) -> int:
    return draw_seed(seed, "dropout", epoch, example.recording_id)


def _optimiser(network: torch.nn.Module, plan: Optimisation) -> torch.optim.Optimizer:
    chosen = plan.optimiser
    if isinstance(chosen, Adam):
        return torch.optim.Adam(
            network.parameters(), lr=chosen.rate, weight_decay=chosen.weight_decay
        )
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": chosen.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=chosen.rate)


def _coefficient_statistics(examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each coefficient [C] over the training side's first epoch."""
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for features in prefetched(
        examples.sides["train"], lambda one: examples.training_windows(one, 0), ahead=8
    ):
        flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
        count, total, squares = count + len(flat), total + flat.sum(0), squares + (flat**2).sum(0)
    mean = total / count
    spread = np.sqrt(np.maximum(squares / count - mean**2, 1e-6))
    return torch.from_numpy(mean).float(), torch.from_numpy(spread).float()


def _checkpoint(state: State, network: torch.nn.Module, optimiser: torch.optim.Optimizer) -> bytes:
    buffer = io.BytesIO()
    torch.save(
        {
            "state": vars(state),
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
        },
        buffer,
    )
    return buffer.getvalue()


def _restore(
    checkpoint: bytes, network: torch.nn.Module, optimiser: torch.optim.Optimizer
) -> State:
    saved = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
    network.load_state_dict(saved["network"])
    optimiser.load_state_dict(saved["optimiser"])
    return State(**saved["state"])

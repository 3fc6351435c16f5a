"""The latency model of a study: measured once, before its search, and kept with its digest.

What was measured is part of the study. A search that goes on proposes what it would have proposed,
on another machine too, which is told so.
"""

import json
import platform
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sat_optuna.config.config import StudyConfig, decided
from sat_optuna.errors import SatOptunaWarning, StudyError
from sat_optuna.events import GETTING_READY, Event, OnEvent
from sat_optuna.files import sha256_of, write_text
from sat_optuna.pipeline.done import Done
from sat_optuna.pipeline.results import Timed
from sat_optuna.scheme import Scheme

if TYPE_CHECKING:
    from sat_optuna.cost.latency import LatencyModel
    from sat_optuna.pipeline.folder import StudyFolder

__all__ = [
    "ROUNDS",
    "hardware_of",
    "kept_latency",
    "knows_latency",
    "latency_here",
    "measure_latency",
]

ROUNDS = 15  # of each scheme of the design
_STEP = "latency"
_KEYS = ("threads", "data.", "network.", "attention.", "plugins.", "search.latency_batch")


def measure_latency(study: "StudyFolder", on_event: OnEvent) -> None:
    """Measure what each module adds at each block, where the search needs it and lacks it.

    Once a search was begun nothing is measured: its schemes were proposed by what was.
    """
    if not study.config.search.uses_latency or study.has_search():
        return
    asked, path = _decided(study), _path(study)
    if knows_latency(study) and path.is_file():
        return
    on_event(Event(step=_STEP, done=0, total=ROUNDS, message=GETTING_READY))
    from sat_optuna.cost.latency import fit_latency

    parts, batch = study.parts, study.config.search.latency_batch
    net = parts.fresh_supernet()
    model = fit_latency(net, parts.data.shape, batch=batch, rounds=ROUNDS, on_event=on_event)
    _warn_of_noise(model)
    document = {"hardware": asked["hardware"], "model": model.to_dict()}
    write_text(path, json.dumps(document, indent=1) + "\n")
    made = {path.name: sha256_of(path)}
    study.records.write(_STEP, Done(asked, made, finished=True))
    timed = Timed(path=path, model=model)
    on_event(Event(step=_STEP, done=ROUNDS, total=ROUNDS, made=timed, finished=True))


def _warn_of_noise(model: "LatencyModel") -> None:
    """Warn where the model's error is no less than what attention in all blocks adds."""
    plain, error = model.plain_ms.value, model.residual_percent
    full = model.predict(Scheme.uniform(model.stages, 1))
    added = 100 * (full / plain - 1)
    if error is not None and error >= added:
        warnings.warn(
            f"the latency model is off by {error:.1f} % of a pass (median of {model.fresh} "
            f"schemes), and {model.kinds[0]} in all blocks adds {added:.1f} %, so it tells "
            "little; stop this, leave the machine idle or raise search.latency_batch, remove the "
            "study's work/done/latency.json, and run the same command again",
            SatOptunaWarning,
            stacklevel=3,
        )


def knows_latency(study: "StudyFolder") -> bool:
    """Tell whether the latency model of this network was measured.

    One of another machine counts only where the search was begun with it.
    """
    record, asked = study.records.get(_STEP), _decided(study)
    decided_then = dict(record.decided) if record else {}
    if study.has_search():
        asked["hardware"] = decided_then.get("hardware")
    return bool(decided_then == json.loads(json.dumps(asked)))


def kept_latency(study: "StudyFolder") -> tuple["LatencyModel", Mapping[str, Any]]:
    """Return the latency model that was measured, and what it was measured on.

    Raises:
        StudyError: there is none, or its bytes have changed.
    """
    from sat_optuna.cost.latency import LatencyModel

    path, record = _path(study), study.records.get(_STEP)
    if record is None or not path.is_file():
        raise StudyError(
            f"{path}, the latency model that study {study.name!r} proposes schemes by, is not "
            "there; bring work/ back from a copy, or make a new study"
        )
    if sha256_of(path) != record.made.get(path.name):
        raise StudyError(
            f"{path} is not what was measured for study {study.name!r}: its bytes have changed "
            "since; bring that file back from a copy, or make a new study"
        )
    document = json.loads(path.read_text(encoding="utf-8"))
    return LatencyModel.from_dict(document["model"]), document["hardware"]


def latency_here(study: "StudyFolder") -> "LatencyModel":
    """Return the kept latency model; warn where it was measured on another machine.

    Raises:
        StudyError: there is none, or its bytes have changed.
    """
    model, measured_on = kept_latency(study)
    here = hardware_of(study.config)
    if changed := [key for key in here if measured_on.get(key) != here[key]]:
        said = "; ".join(f"{key}: {measured_on.get(key)} then, {here[key]} now" for key in changed)
        warnings.warn(
            f"the latency model of study {study.name!r} was measured elsewhere ({said}); its "
            "milliseconds still decide which schemes are proposed, and this machine's may differ",
            SatOptunaWarning,
            stacklevel=2,
        )
    return model


def _path(study: "StudyFolder") -> Path:
    return study.work / "latency.json"


def _decided(study: "StudyFolder") -> dict[str, Any]:
    """Return what decides the milliseconds: network, images, batch and machine."""
    keys = decided(study.config, "search")
    return {
        **{key: value for key, value in keys.items() if key.startswith(_KEYS)},
        "hardware": hardware_of(study.config),
    }


def hardware_of(config: StudyConfig) -> dict[str, Any]:
    """Return what a network's speed depends on beside itself."""
    import torch

    from sat_optuna.training.precision import pick_device

    device = pick_device(config.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": name, "threads": config.threads, "torch": torch.__version__}


def _processor() -> str:
    """Return the processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(named, platform.processor())} ({platform.machine()})".lstrip()

"""What optuna-dashboard shows of a study beside its trials: graphs, notes of trials, files.

Only what differs from what is there is written: each write is a new version for who looks at it.
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sat_optuna.files import write_atomically
from sat_optuna.tracking.note import with_section

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

__all__ = ["save_file", "save_graph", "write_trial_note"]

_IMAGES_AND_TABLES = (".png", ".csv")
_GRAPH = "dashboard:plot_data:"
_ARTIFACT = "artifacts:"


def _graph(study: "Study", name: str) -> str:
    """Return the JSON of a study's graph; the empty text where there is none."""
    from sat_optuna.sampler.storage import backend_of

    backend, study_id = backend_of(study)
    prefix = f"{_GRAPH}{name}:"
    attributes = backend.get_study_system_attrs(study_id).items()
    parts = {int(k.removeprefix(prefix)): v for k, v in attributes if k.startswith(prefix)}
    return "".join(parts[place] for place in sorted(parts))


def save_graph(study: "Study", name: str, figure: Any) -> None:
    """Save a plotly figure in a study, in the place of one of that name.

    Args:
        study: opened for writing.
        name: letters, digits and hyphens.
        figure: a `plotly.graph_objects.Figure`.
    """
    from optuna_dashboard import save_plotly_graph_object

    if _graph(study, name) != figure.to_json():
        save_plotly_graph_object(study, figure, graph_object_id=name)


def write_trial_note(study: "Study", trial: "FrozenTrial", title: str, text: str) -> None:
    """Write a section of a trial's note, as of `with_section`; it takes 4 ms, or 26 where 400 are.

    Args:
        study: opened by `load_study`, whose sampler does nothing when a trial is attached to.
        trial: one of its trials, finished or not.
        title: of the section.
        text: Markdown.
    """
    from optuna.trial import Trial
    from optuna_dashboard import get_note, save_note

    from sat_optuna.sampler.storage import id_of

    attached = Trial(study, id_of(trial))
    note = get_note(attached)
    if note != (written := with_section(note, title, text)):
        save_note(attached, written)


def save_file(study: "Study", path: Path, *, folder: Path) -> None:
    """Save an image or a table as an artifact of a study, in the place of one of that name.

    Optuna refuses artifacts of trials that are finished. Artifacts are served from where the pages
    of the dashboard are, so neither .html nor .svg, which may hold programs, is ever one.

    Args:
        study: opened for writing.
        path: a file, .png or .csv.
        folder: where the artifacts of the study are.

    Raises:
        ValueError: it is another kind of file.
    """
    from optuna.artifacts import FileSystemArtifactStore, upload_artifact

    from sat_optuna.sampler.storage import backend_of

    if path.suffix not in _IMAGES_AND_TABLES:
        ends = " or ".join(_IMAGES_AND_TABLES)
        raise ValueError(f"{path} given; give a file that ends in {ends}")
    backend, study_id = backend_of(study)
    attributes = backend.get_study_system_attrs(study_id)
    # One that was deleted in the dashboard is null.
    known = [json.loads(v) for k, v in attributes.items() if k.startswith(_ARTIFACT)]
    own = [meta["artifact_id"] for meta in known if meta and meta["filename"] == path.name]
    if not own:
        folder.mkdir(parents=True, exist_ok=True)
        store = FileSystemArtifactStore(folder)
        upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=study)
        return
    there = folder / own[0]
    if not there.is_file() or there.read_bytes() != path.read_bytes():
        write_atomically(there, lambda temporary: shutil.copyfile(path, temporary))

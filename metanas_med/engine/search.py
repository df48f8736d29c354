"""``search``: an architecture and its weights from unlabelled scans alone (UnNAS, Liu et al. 2020, arXiv 2003.12056)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ..data.options import STRICT, ReadOptions
from ..files import write_json
from ..meta import MetaState
from ..ownership import owned
from ..pretext import check_pretexts
from ..space import genotype
from .meta_run import MetaRun
from .meta_train import meta_train
from .model import write_architecture_drawing
from .run_folder import check_no_run
from .scans import prepare_scans
from .settings import Settings
from .state import build_network, load_meta_state

log = logging.getLogger(__name__)


def search_architecture(
    settings: Settings,
    datasets: Sequence[Path | str],
    out: Path | str,
    pretext: str | Sequence[str] = (),
    cache: Path | str | None = None,
    resume: bool = False,
    options: ReadOptions = STRICT,
) -> Path:
    """Return the run folder of a label-free search: meta-training on the pretext tasks of ``datasets`` and nothing else.

    ``datasets`` are folders of NIfTI scans, or in MSD layout; labels are not read. ``pretext`` names one task, or several that
    alternate (default: those of the settings). The result is the folder of a meta-training, from which ``adapt`` can start, with
    ``architecture.json`` and its drawing. Scans are prepared into a separate folder in ``cache``. Raises DataError for too few or
    unusable scans and ConfigError for an unknown pretext; then nothing is written to ``out``.
    """
    names = ((pretext,) if isinstance(pretext, str) else tuple(pretext)) or settings.pretext.names
    check_pretexts(names)
    out = Path(out)
    with owned(out):
        check_no_run(out, resume)
        folder, rows = prepare_scans(datasets, cache, options)
        for row in rows:
            for line in row.headers:
                log.warning("%s: %s", row.name, line)
        chosen = settings.pretext.model_copy(update={"mix": 1.0, "names": names})
        meta_train(settings.model_copy(update={"pretext": chosen, "cache": str(folder)}), out, resume)
        _write_architecture(MetaRun.load(out), out)
    return out


def _write_architecture(run: MetaRun, out: Path) -> None:
    net = build_network(run.settings.space, run.settings.seed)
    load_meta_state(net, MetaState(run.state.weights, run.state.alphas))
    if net.alphas():
        found = genotype(net.body)
        write_json(out / "architecture.json", found)
        write_architecture_drawing(out, found)

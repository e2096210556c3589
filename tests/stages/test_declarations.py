"""The declarations of the stages: one shape for all, and the parameters that users have in their files."""

import inspect
import json
from pathlib import Path

import pytest
from conftest import ROOT
from stage_tools import masks_of, run_stage
from test_shards import write_data

from csp_utils.base.errors import UserError
from csp_utils.base.files import write_parquet
from csp_utils.base.params import WHERE_ONLY, Params
from csp_utils.base.run import RunPaths, makers
from csp_utils.models import keyword_lm
from csp_utils.noise import training_rows
from csp_utils.results.code import DECIDES, code_of
from csp_utils.results.cost import Cost, Known
from csp_utils.results.produce import origin_of, record_file, why_not_current
from csp_utils.results.stage import Stage
from csp_utils.stages import MODULES, stages
from csp_utils.stages.correlation import Correlation
from csp_utils.stages.extract import Extract
from csp_utils.stages.perturb import Perturb

EACH = pytest.mark.parametrize("stage", stages.values(), ids=list(stages))


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@EACH
def test_every_stage_has_the_same_shape(stage: Stage) -> None:
    p, paths = stage.params(), RunPaths("demo")
    assert list(inspect.signature(stage.compute).parameters) == ["job"] and stage.compute.__doc__
    assert issubclass(stage.params, Params) and stage.params.__doc__ and stage.params.__doc__ != Params.__doc__
    assert (stage.open_shard is None) == (stage.schema is None)
    assert (stage.open_shard is not None) == ("shards" in stage.params.model_fields)
    assert stage.makes and stage.notebook.is_file()
    assert all(isinstance(source, str | Path) for source in (stage.reads(p, paths) | stage.looks_at(p, paths)).values())
    assert all(isinstance(path, Path) for path in [*stage.also_makes(p, paths), *stage.scraps(p, paths)])
    assert isinstance(stage.cost(p, paths, Known()), Cost)
    assert stage.gpu == ("device" in stage.params.model_fields)


@EACH
def test_every_stage_knows_its_code(stage: Stage) -> None:
    """The definitions that compute it, whatever is imported inside a function, and the libraries behind them."""
    code = code_of(stage.functions, stage.files)
    own = stage.compute.__module__
    assert own in code.modules and len(code.modules) > 2
    carried = {module for module in code.modules if module.startswith(("csp_utils.base", "csp_utils.pipeline"))}
    assert carried <= {DECIDES}
    measured = {"01_extract": "models.keyword_lm", "02_mask": "models.sam", "03_perturb": "noise.diffusion",
                "04_sft": "training.command", "05_simpo": "training.command", "06_eval": "models.vlm.shared",
                "07_correlation": "measures.metrics", "08_stress": "noise.noised_view", "10_schedule": "noise.schedule"}
    assert stage.name not in measured or f"csp_utils.{measured[stage.name]}" in code.modules


def test_no_two_stages_make_the_same_result() -> None:
    made = [name for stage in stages.values() for name in stage.makes]
    assert len(made) == len(set(made)) and makers == {name: s.name for s in stages.values() for name in s.makes}
    assert len(MODULES) == len(stages) == len(list((ROOT / "notebooks").glob("*.ipynb")))


def test_what_a_stage_reads_of_its_run_an_earlier_one_makes() -> None:
    earlier: set[Path] = set()
    for stage in stages.values():
        paths = RunPaths("demo")
        own = [Path(source) for source in stage.reads(stage.params(), paths).values()
               if paths.root in Path(source).parents and not str(source).endswith("/images")]  # fmt: skip
        for source in own:
            assert any(made == source or made in source.parents or source in made.parents for made in earlier), source
        earlier |= {paths[name] for name in stage.makes} | set(stage.also_makes(stage.params(), paths))


FIELDS = json.loads((Path(__file__).parent / "parameters.json").read_text(encoding="utf-8"))
"""Parameters and defaults of every notebook since the last change on purpose: users have them in files."""


@EACH
def test_no_parameter_and_no_default_has_changed(stage: Stage) -> None:
    assert stage.params().model_dump(mode="json") == FIELDS[stage.name]


# --------------------------------------------------------------------------------------------------- produce on stages


@pytest.fixture
def perturbed(tmp_path: Path) -> RunPaths:
    """A run with masks of two rows, perturbed once."""
    paths = RunPaths("r", tmp_path)
    write_data(paths["data/rlaif_v/train.parquet"], 2)
    write_parquet(masks_of(paths["data/rlaif_v/train.parquet"], 2), paths["masks.parquet"])
    run_stage(Perturb(), paths)
    return paths


def test_a_stage_that_fails_at_its_end_leaves_the_older_results(perturbed: RunPaths, monkeypatch: pytest.MonkeyPatch
                                                                ) -> None:
    """Was: rows.parquet and sft.jsonl were new and the data set old, and nothing said so."""
    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(perturbed["perturbed"].rglob("*")) if path.is_file()}

    before, save = files(), training_rows._save_dataset

    def fails(*arguments: object) -> None:
        save(*arguments)  # after everything was computed and written
        raise RuntimeError("a bug in the last line")

    monkeypatch.setattr(training_rows, "_save_dataset", fails)
    with pytest.raises(RuntimeError, match="a bug in the last line"):
        run_stage(Perturb(seed=1), perturbed)
    assert files() == before and not why_not_current(stages["03_perturb"], Perturb(), perturbed)
    assert not list(perturbed[".out"].glob("*"))
    monkeypatch.setattr(training_rows, "_save_dataset", save)
    run_stage(Perturb(seed=1), perturbed)
    assert files() != before and why_not_current(stages["03_perturb"], Perturb(), perturbed) == ["seed was 1 and is 0"]


def test_a_stage_that_loads_models_loads_none_where_nothing_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                    ) -> None:
    """Was: opening a notebook again computed for hours what was there."""
    paths = RunPaths("r", tmp_path)
    write_data(paths["data/rlaif_v/train.parquet"], 2)
    run_stage(Extract(), paths)
    monkeypatch.setattr(keyword_lm, "load_keyword_model", lambda *_: pytest.fail("a model was loaded"))
    for p in (Extract(), Extract(device="cpu"), Extract(run="another")):
        assert [line.split(":")[1].split(" on ")[0] for line in run_stage(p, paths)] == [" used as computed"]
    write_data(paths["data/rlaif_v/train.parquet"], 3)
    with pytest.raises(pytest.fail.Exception):
        run_stage(Extract(), paths)


def test_results_of_two_origins_are_not_mixed(perturbed: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input that changes while a stage computes: nothing is published."""
    write = training_rows.write_rows

    def meanwhile(*arguments: object) -> None:
        write(*arguments)
        masks = perturbed["masks.parquet"]
        masks.write_bytes(masks.read_bytes() + b" ")

    monkeypatch.setattr(training_rows, "write_rows", meanwhile)
    before = record_file(stages["03_perturb"], perturbed).read_bytes()
    with pytest.raises(UserError, match="While 03_perturb was computed, masks_file changed"):
        run_stage(Perturb(seed=1), perturbed)
    assert record_file(stages["03_perturb"], perturbed).read_bytes() == before


def test_where_a_stage_runs_is_in_no_origin(perturbed: RunPaths) -> None:
    stage = stages["03_perturb"]
    one = origin_of(stage, Perturb(), perturbed)
    assert one == origin_of(stage, Perturb(run="other", shards=7), perturbed) and not WHERE_ONLY & set(one.parameters)
    assert one != origin_of(stage, Perturb(gamma=0.01), perturbed)
    # A file that a parameter names counts by its content: the same masks under another name are the same.
    copy = perturbed.root / "copy.parquet"
    copy.write_bytes(perturbed["masks.parquet"].read_bytes())
    assert one.inputs == origin_of(stage, Perturb(masks_file=str(copy)), perturbed).inputs
    assert one == origin_of(stage, Perturb(masks_file=str(copy)), perturbed)


def test_an_input_that_is_missing_is_said_by_its_maker(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="responses.parquet is missing; run notebook 06_eval with run = 'r'"):
        run_stage(Correlation(), RunPaths("r", tmp_path))

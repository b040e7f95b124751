"""Each rule: what is whole, and what is not once a file is missing, cut short or still being written."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.checkpoints import (
    bundle_index,
    deepspeed_tag,
    keras_backup,
    later,
    orbax_step,
    safetensors_file,
    settle,
    sharded,
    tensorflow_checkpoint,
    torch_file,
    trainer_checkpoint,
)

from ckptsync.readiness.recognise import Looked

pytestmark = pytest.mark.req(12)
Look = Callable[..., Looked]


@dataclass(frozen=True)
class Case:
    """A checkpoint and what is to be found.

    `needed` are files without which it is not whole; `told` those of which a cut is seen.
    """

    rule: str
    write: Callable[[Path], object]
    name: str
    step: int | None
    needed: tuple[str, ...]
    told: tuple[str, ...]


CASES = [
    Case("torch", lambda at: torch_file(at / "a-7.pt"), "a-7.pt", None, ("a-7.pt",), ("a-7.pt",)),
    Case("torch", lambda at: torch_file(at / "m.pth", step=9), "m.pth", 9, ("m.pth",), ("m.pth",)),
    Case("torch", lambda at: torch_file(at / "model_4.bin", legacy=True), "model_4.bin", 4, (), ("model_4.bin",)),
    Case(
        "lightning",
        lambda at: torch_file(at / "epoch=1-step=3.ckpt", **{"pytorch-lightning_version": "2", "global_step": 30}),
        "epoch=1-step=3.ckpt",
        30,
        (),
        ("epoch=1-step=3.ckpt",),
    ),
    Case(
        "dcp",
        lambda at: sharded(at / "step-100"),
        "step-100",
        100,
        (".metadata", "__0_0.distcp"),
        (".metadata", "__0_0.distcp"),
    ),
    Case(
        "huggingface",
        lambda at: trainer_checkpoint(at / "checkpoint-5", shards=3, ranks=3),
        "checkpoint-5",
        5,
        (
            "trainer_state.json",
            "model-00002-of-00003.safetensors",
            "model.safetensors.index.json",
            "rng_state_0.pth",
            "rng_state_1.pth",
        ),
        (
            "trainer_state.json",
            "model-00002-of-00003.safetensors",
            "model.safetensors.index.json",
            "optimizer.pt",
            "scheduler.pt",
        ),
    ),
    Case(
        "deepspeed",
        lambda at: deepspeed_tag(at / "run", ranks=3),
        "run/global_step10",
        10,
        ("latest", "global_step10/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"),
        ("global_step10/mp_rank_00_model_states.pt",),
    ),
    Case(
        "orbax",
        lambda at: orbax_step(at / "20"),
        "20",
        20,
        ("_CHECKPOINT_METADATA",),
        ("_CHECKPOINT_METADATA", "default/_METADATA"),
    ),
    Case(
        "tensorflow",
        lambda at: tensorflow_checkpoint(at / "tf"),
        "tf/ckpt-7",
        7,
        ("checkpoint", "ckpt-7.index", "ckpt-7.data-00000-of-00002", "ckpt-7.data-00001-of-00002"),
        ("ckpt-7.index", "ckpt-7.data-00000-of-00002", "ckpt-7.data-00001-of-00002"),
    ),
    Case(
        "keras",
        lambda at: keras_backup(at / "backup"),
        "backup",
        None,
        ("latest.weights.h5", "training_metadata.json"),
        ("latest.weights.h5", "training_metadata.json"),
    ),
    Case(
        "safetensors",
        lambda at: safetensors_file(at / "step-8.safetensors"),
        "step-8.safetensors",
        8,
        (),
        ("step-8.safetensors",),
    ),
]


def place(folder: Path, name: str) -> Path:
    """Where a file of a case lies."""
    return next(path for path in folder.rglob("*") if str(path).endswith(f"/{name}"))


@pytest.mark.parametrize("rule", ["auto", "own"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.name}")
def test_what_is_whole_is_found(folder: Path, looked: Look, case: Case, rule: str) -> None:
    case.write(folder)
    found = looked(case.rule if rule == "own" else rule)
    (ready,) = found.checkpoints
    assert (ready.rule, ready.name, ready.step, found.waiting) == (case.rule, case.name, case.step, ())
    assert ready.paths == {file.path for file in found.tree.files}
    if case.rule in {"lightning", "deepspeed"}:  # whose files are torch's, too
        return
    for other in {"torch", "dcp", "orbax", "tensorflow", "keras", "deepspeed", "marker"} - {case.rule}:
        assert all(one.rule == other and one.name != case.name for one in looked(other).checkpoints)


@pytest.mark.parametrize(
    ("case", "name"),
    [(case, name) for case in CASES for name in case.needed],
    ids=lambda one: getattr(one, "rule", one),
)
def test_a_file_that_is_missing_is_waited_for(folder: Path, looked: Look, case: Case, name: str) -> None:
    case.write(folder)
    place(folder, name).unlink()
    found = looked()
    assert case.rule not in {ready.rule for ready in found.checkpoints}
    assert looked(case.rule).checkpoints == ()
    if case.rule != "torch" and name != "latest.weights.h5":  # of which nothing is left
        assert found.waiting


@pytest.mark.parametrize(
    ("case", "name"), [(case, name) for case in CASES for name in case.told], ids=lambda one: getattr(one, "rule", one)
)
def test_a_file_that_is_cut_short_is_waited_for(folder: Path, looked: Look, case: Case, name: str) -> None:
    case.write(folder)
    file = place(folder, name)
    content, before = file.read_bytes(), file.stat()
    for size in sorted({0, 1, len(content) // 2, len(content) - 1}):
        file.write_bytes(content[:size])
        found = looked()
        assert found.checkpoints == (), size
        assert looked(case.rule).checkpoints == ()
        assert found.waiting, size
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(looked().checkpoints) == 1


def test_sentences_say_what_is_missing(folder: Path, looked: Look) -> None:
    trainer_checkpoint(folder / "checkpoint-5", shards=3)
    (folder / "checkpoint-5/model-00002-of-00003.safetensors").unlink()
    deepspeed_tag(folder / "ds", ranks=2)
    (folder / "ds/global_step10/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt").unlink()
    tensorflow_checkpoint(folder / "tf")
    (folder / "tf/ckpt-7.index").unlink()
    sharded(folder / "dcp")
    (folder / "dcp/.metadata").unlink()
    keras_backup(folder / "k")
    (folder / "k/training_metadata.json").unlink()
    (folder / "tmp.pt").write_bytes(b"PK\x03\x04 half")
    (folder / "7.orbax-checkpoint-tmp-1").mkdir()
    assert set(looked().waiting) == {
        "7.orbax-checkpoint-tmp-1 is being written, by its name",
        "checkpoint-5 is not whole: model-00002-of-00003.safetensors is not there",
        f"checkpoint in {folder}/tf lists ckpt-7, and ckpt-7.index is not there",
        "dcp has no .metadata yet",
        "ds/global_step10/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt is not there",
        "k has no training_metadata.json yet",
        "tmp.pt has no end yet",
    }


@pytest.mark.parametrize(
    "name", ["a.pt.tmp", "tmp-a.pt", ".a.pt.swp", ".a.pt", "a.pt.partial", "a.pt.incomplete", "a.pt.part", ".~a.pt"]
)
def test_temporary_names_are_left_alone(folder: Path, looked: Look, name: str) -> None:
    torch_file(folder / name)
    torch_file(folder / "tmp-checkpoint-5" / "a.pt")
    assert looked().checkpoints == looked("torch").checkpoints == ()
    (folder / name).rename(folder / "a.pt")
    assert [one.name for one in looked().checkpoints] == ["a.pt"]


# -- written again, in the place of what was whole -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (sharded, "__0_0.distcp"),
        (trainer_checkpoint, "model.safetensors"),
        (trainer_checkpoint, "optimizer.pt"),
        (deepspeed_tag, "global_step10/mp_rank_00_model_states.pt"),
        (keras_backup, "latest.weights.h5"),
    ],
)
def test_what_is_written_after_what_should_be_last_is_waited_for(
    folder: Path, looked: Look, write: Callable[[Path], object], name: str
) -> None:
    write(folder / "checkpoint-5")
    later(folder / "checkpoint-5" / name)
    assert looked().checkpoints == ()
    (sentence,) = looked().waiting
    assert "is being written again" in sentence


# -- the Trainer of transformers ---------------------------------------------------------------------------------------------


def test_metrics_of_this_very_step_are_told(folder: Path, looked: Look) -> None:
    history = [
        {"step": 3, "loss": 2.0, "eval_loss": 1.5},
        {"step": 5, "loss": 1.0, "grad_norm": float("nan"), "note": "x"},
        {"step": 5, "eval_loss": 0.5, "eval_a:b": 1},
    ]
    trainer_checkpoint(folder / "checkpoint-5", history=history, best_metric=0.25)
    (ready,) = looked().checkpoints
    assert ready.metrics == {"loss": 1.0, "eval_loss": 0.5, "eval_a_b": 1.0, "best_metric": 0.25}


def test_the_trainer_says_itself_that_it_is_not_done(folder: Path, looked: Look) -> None:
    checkpoint = trainer_checkpoint(folder / "checkpoint-5")
    (checkpoint / "checkpoint-is-incomplete.txt").touch()
    assert looked().checkpoints == ()
    assert "checkpoint-is-incomplete.txt" in looked().waiting[0]


def test_a_state_without_weights_is_no_checkpoint(folder: Path, looked: Look) -> None:
    checkpoint = trainer_checkpoint(folder / "checkpoint-5")
    (checkpoint / "model.safetensors").rename(checkpoint / "adapter_model.safetensors")
    assert len(looked().checkpoints) == 1
    (checkpoint / "adapter_model.safetensors").unlink()
    assert looked().checkpoints == ()
    assert looked().waiting == ("checkpoint-5 is not whole: no weights are there",)


def test_folders_of_sharded_trainings_are_whole_too(folder: Path, looked: Look) -> None:
    checkpoint = trainer_checkpoint(folder / "checkpoint-5")
    sharded(checkpoint / "pytorch_model_fsdp_0")
    deepspeed_tag(checkpoint, "global_step5")
    settle(checkpoint, "pytorch_model_fsdp_0/.metadata", "latest", "trainer_state.json")
    (ready,) = looked().checkpoints
    assert "checkpoint-5/pytorch_model_fsdp_0/__0_0.distcp" in ready.paths
    shard = checkpoint / "pytorch_model_fsdp_0/__0_0.distcp"
    shard.rename(checkpoint / "aside")
    assert "__0_0.distcp is not there" in looked().waiting[0]
    (checkpoint / "aside").rename(shard)
    (checkpoint / "global_step5/mp_rank_00_model_states.pt").write_bytes(b"")
    assert looked().checkpoints == ()


def test_a_model_at_the_end_is_no_checkpoint(folder: Path, looked: Look) -> None:
    trainer_checkpoint(folder / "checkpoint-5")
    for name in ("model.safetensors", "config.json", "training_args.bin"):
        (folder / name).write_bytes((folder / "checkpoint-5" / name).read_bytes())
    found = looked()
    assert [one.name for one in found.checkpoints] == ["checkpoint-5"]
    assert found.waiting == (". holds a model without trainer_state.json: it is no checkpoint of a training",)
    (folder / "trainer_state.json").write_text('{"global_step": 5}')  # as `save_state` leaves it
    found = looked()
    assert ([one.name for one in found.checkpoints], found.waiting) == (["checkpoint-5"], ())


@pytest.mark.parametrize(
    "state", ["[]", "{}", '{"global_step": -1}', '{"global_step": "5"}', '{"global_step": true}', "[" * 100_000]
)
def test_a_state_that_tells_no_step_is_none(folder: Path, looked: Look, state: str) -> None:
    checkpoint = trainer_checkpoint(folder / "checkpoint-5")
    (checkpoint / "trainer_state.json").write_text(state)
    assert looked().checkpoints == ()
    assert "trainer_state.json" in looked().waiting[0]


# -- others --------------------------------------------------------------------------------------------------------------


def test_lightning_tells_metrics_in_its_names(folder: Path, looked: Look) -> None:
    state = {"pytorch-lightning_version": "2.6", "global_step": 12, "epoch": 1}
    torch_file(folder / "epoch=1-step=12-val_loss=0.25-acc=9e-1.ckpt", **state)
    (ready,) = looked().checkpoints
    assert (ready.step, ready.metrics) == (12, {"val_loss": 0.25, "acc": 0.9})


def test_tensorflow_lists_are_limited_to_what_is_whole(folder: Path, looked: Look) -> None:
    tensorflow_checkpoint(folder, 1)
    tensorflow_checkpoint(folder, 2)
    (folder / "checkpoint").write_text(
        'model_checkpoint_path: "ckpt-2"\n'
        + "".join(f'all_model_checkpoint_paths: "ckpt-{step}"\n' for step in (0, 1, 2))
    )
    (ready,) = looked().checkpoints
    assert ready.replaced["checkpoint"].decode().count("ckpt-0") == 0
    assert {path for path in ready.paths if "ckpt-1" in path}
    assert ready.copied == {"ckpt-1.index", "ckpt-2.index"}


def test_an_index_that_is_compressed_is_taken_as_it_is(folder: Path, looked: Look) -> None:
    tensorflow_checkpoint(folder, 1)
    (folder / "ckpt-1.index").write_bytes(bundle_index([1 << 40, 1], compressed=True))
    assert len(looked().checkpoints) == 1
    (folder / "ckpt-1.index").write_bytes(bundle_index([1 << 40, 1]))
    assert "should have 1099511627776 bytes" in looked().waiting[0]


def test_other_programs_may_have_a_file_named_latest(folder: Path, looked: Look) -> None:
    (folder / "latest").write_text("logs")
    (folder / "logs").mkdir()
    (folder / "logs/a.log").write_text("x")
    torch_file(folder / "a.pt")
    found = looked()
    assert ([one.name for one in found.checkpoints], found.waiting) == (["a.pt"], ())


def test_several_files_in_the_folder_of_a_step_may_be_marked(folder: Path, looked: Look) -> None:
    for name in ("model.pt", "optim.pt"):
        torch_file(folder / "step-5" / name)
        sharded(folder / "epoch6" / name.removesuffix(".pt"))
        safetensors_file(folder / "iter-7" / f"{name}.safetensors")
    found = looked()
    assert found.checkpoints == ()
    assert len(found.waiting) == 3
    assert all("or when it is marked" in sentence for sentence in found.waiting)
    (folder / "step-5/.ckptsync-ready").touch()
    assert [(one.name, one.step) for one in looked().checkpoints] == [("step-5", 5)]


@pytest.mark.parametrize(
    "names",
    [
        (
            "checkpoint_0/model.safetensors",
            "checkpoint_0/optimizer.bin",
            "checkpoint_0/random_states_0.pkl",
        ),  # Accelerate's
        ("accelerated/pytorch_model.bin", "accelerated/scheduler.bin"),
        ("iter_0000100/mp_rank_00/model_optim_rng.pt",),  # Megatron's
        ("step-5/weights/.metadata", "step-5/context/model.yaml"),  # NeMo's
    ],
)
def test_parts_of_a_checkpoint_are_not_taken_alone(folder: Path, looked: Look, names: tuple[str, ...]) -> None:
    for name in names:
        if name.endswith(".metadata"):
            sharded((folder / name).parent)
        elif name.endswith(".safetensors"):
            safetensors_file(folder / name)
        else:
            torch_file(folder / name)
    found = looked()
    assert found.snapshots == ()
    (sentence,) = found.waiting
    assert "mark them when they are" in sentence or "nothing tells when all of it is there" in sentence


def test_hidden_folders_are_left_alone(folder: Path, looked: Look) -> None:
    torch_file(folder / ".cache/a.pt")
    found = looked()
    assert (found.checkpoints, found.waiting) == ((), ())
    assert [file.path for file in found.tree.files] == [".cache/a.pt"]

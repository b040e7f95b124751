"""The protections, and the text whose removal takes each of them away."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One protection, removed.

    Attributes:
        name: the protection.
        file: below `ckptsync/`.
        changes: exact old text, found once, and what stands there instead.
        test: the test that must fail then.
    """

    name: str
    file: str
    changes: tuple[tuple[str, str], ...]
    test: str


CATALOG = "tests/unit/test_catalog.py"
CLAIMS = "tests/unit/test_claims.py"
MATRIX = "tests/faults/test_matrix.py::test_every_request_may_be_killed"
SAVE = "tests/unit/verbs/test_save.py"
SAVE_AGAIN = "tests/unit/verbs/test_save_again.py"
RACES = "tests/faults/test_interleavings.py"
GC = "tests/unit/verbs/test_gc.py"
DOWNLOAD = "tests/unit/transfer/test_download.py"

_EARLY = """
def _early(tree, snapshot):
    from ckptsync.snapshot.digest import part_digest
    from ckptsync.snapshot.manifest import FileEntry

    contents = {file.path: file.location.read_bytes() for file in tree.files}
    size = 1 << 20
    entries = tuple(
        FileEntry(
            path=path,
            size=len(data),
            key=layout.data_key(snapshot, path),
            part_bytes=size if data else 0,
            parts=tuple(part_digest(data[at : at + size]) for at in range(0, len(data), size)),
        )
        for path, data in contents.items()
    )
    return Manifest(
        snapshot=str(snapshot), commit_id="0" * 32, created="", entries=sorted_entries(tree, entries), writer=this_writer()
    )


def saved("""

MUTATIONS = (
    Mutation(
        name="after a refused commit, the manifest is read back",
        file="catalog.py",
        changes=(("ours = self._read(key, manifest.id).commit_id == manifest.commit_id", "ours = False"),),
        test=f"{CATALOG}::test_a_commit_whose_answer_was_lost_stands",
    ),
    Mutation(
        name="after a refused claim, the claim is read back",
        file="claims.py",
        changes=(("return self.writer(claim.epoch) == claim", "return False"),),
        test=f"{CLAIMS}::test_a_claim_whose_answer_was_lost_is_ours",
    ),
    Mutation(
        name="the epoch orders manifests, before the step",
        file="snapshot/layout.py",
        changes=(
            ("epoch, step = MAX_EPOCH - snapshot.epoch, MAX_STEP", "epoch, step = snapshot.epoch, MAX_STEP"),
            ("SnapshotId(MAX_EPOCH - int(found[1]), MAX_STEP", "SnapshotId(int(found[1]), MAX_STEP"),
        ),
        test=f"{CATALOG}::test_latest_is_of_the_newest_epoch_then_the_highest_step",
    ),
    Mutation(
        name="the manifest is put last, after all data",
        file="verbs/save.py",
        changes=(
            (
                "        entries = sending.send(",
                "        run.catalog.commit(_early(tree, snapshot))\n        entries = sending.send(",
            ),
            ("original.commit_id if original else secrets.token_hex(16)", '"0" * 32'),
            ("\ndef saved(", _EARLY),
        ),
        test=f"{MATRIX}[save]",
    ),
    Mutation(
        name="the manifest is created only if absent",
        file="catalog.py",
        changes=(("self.store.put(key, data, if_absent=True)", "self.store.put(key, data)"),),
        test=f"{CATALOG}::test_another_manifest_under_the_key_is_never_overwritten",
    ),
    Mutation(
        name="the claims are looked at right before the commit",
        file="catalog.py",
        changes=(("        self.claims.check_not_fenced(manifest.id.epoch)\n", ""),),
        test=f"{RACES}::test_a_writer_whose_data_gc_took_commits_nothing",
    ),
    Mutation(
        name="the journal is in the bucket before any data",
        file="verbs/save.py",
        changes=(
            ("            partial(sending.announce, tree),\n", "            lambda: None,\n"),
            (
                "        own = layout.data_prefix(snapshot)\n",
                "        sending.announce(tree)\n        own = layout.data_prefix(snapshot)\n",
            ),
        ),
        test=f"{MATRIX}[save]",
    ),
    Mutation(
        name="the journal on disk keeps what was sent",
        file="transfer/journal.py",
        changes=(("if self._descriptor is None or self._is_full:", "if True:"),),
        test=SAVE_AGAIN + "::test_a_killed_upload_is_continued_part_by_part[0-with the journal]",
    ),
    Mutation(
        name="parts that are in the bucket are kept",
        file="transfer/upload_file.py",
        changes=(("            return tag if known == digest else None", "            return None"),),
        test=f"{MATRIX}[save]",
    ),
    Mutation(
        name="every part is hashed before it is written to disk",
        file="transfer/reader.py",
        changes=(
            ("if count == size and digest == entry.parts[number - 1]:", "if count == size:"),
            ("(is_last and hasher.hexdigest() != entry.parts[number - 1])", "False"),
        ),
        test=f"{DOWNLOAD}::test_one_bad_twice_is_named_and_never_written",
    ),
    Mutation(
        name="a part that does not match is fetched once more",
        file="transfer/reader.py",
        changes=(("attempts = conflicts = 0", "attempts, conflicts = 1, 0"),),
        test=f"{DOWNLOAD}::test_a_part_flipped_on_the_wire_is_fetched_once_more",
    ),
    Mutation(
        name="gc deletes manifests before their data",
        file="verbs/gc.py",
        changes=(
            ("        run.store.delete([layout.manifest_key(one) for one in oldest_first])\n", ""),
            (
                "    others = [(one, found)",
                "    run.store.delete([layout.manifest_key(one) for one in oldest_first])\n    others = [(one, found)",
            ),
        ),
        test=f"{MATRIX}[gc]",
    ),
    Mutation(
        name="rm deletes the manifest before its data",
        file="verbs/remove.py",
        changes=(
            ("    run.store.delete([layout.manifest_key(snapshot)])\n", ""),
            (
                "    if owners and not view.leased:  #",
                "    run.store.delete([layout.manifest_key(snapshot)])\n    if owners and not view.leased:  #",
            ),
        ),
        test=f"{MATRIX}[rm]",
    ),
    Mutation(
        name="a saver looks for gc's condemnation before it continues an attempt",
        file="verbs/earlier.py",
        changes=(
            ("        run.store.stat(layout.condemned_key(attempt))\n    except", "        return True\n    except"),
        ),
        test=f"{RACES}::test_a_saver_that_comes_after_the_condemnation_names_nothing_of_it",
    ),
    Mutation(
        name="gc looks for adopters after it has condemned",
        file="verbs/gc.py",
        changes=(
            (
                "    found = {folder.id: folder for folder in folders(run.store)}\n    after =",
                "    found = dict(before.folders)\n    after =",
            ),
        ),
        test=f"{RACES}::test_a_gc_that_condemns_after_the_marker_deletes_nothing_of_it",
    ),
    Mutation(
        name="gc spares what is pinned",
        file="verbs/gc.py",
        changes=(("        frozenset(names.pins(run.catalog))\n        | frozenset(", "        frozenset("),),
        test=f"{GC}::TestRetention::test_pinned_aliased_and_newest_stay",
    ),
    Mutation(
        name="a source that changed meanwhile is not committed",
        file="verbs/sending.py",
        changes=(("    tree.check_unchanged()\n", ""),),
        test=f"{SAVE}::test_files_added_removed_or_cut_during_the_upload_are_noticed",
    ),
    Mutation(
        name="the first claim proves that the store honours conditions",
        file="claims.py",
        changes=(
            (
                (
                    "            claim = self._new_claim(epoch)\n"
                    "            if self._create(layout.writer_key(epoch), claim):\n"
                    "                if epoch == 1:\n"
                    "                    self._prove_conditional_put(claim)\n"
                ),
                "            claim = self._new_claim(epoch)\n            if self._create(layout.writer_key(epoch), claim):\n",
            ),
        ),
        test=f"{CLAIMS}::test_a_store_that_ignores_conditions_is_refused",
    ),
    Mutation(
        name="a process that was overtaken does not take the run back",
        file="tenure.py",
        changes=(("                claims.check_not_fenced(self._epoch)\n", "                pass\n"),),
        test="tests/unit/test_tenure.py::test_an_overtaken_process_does_not_take_the_run_back[6]",
    ),
    Mutation(
        name="ranks commit only when all have reported",
        file="verbs/gathering.py",
        changes=(("if len(ranks) == us.world and", "if ranks and"),),
        test="tests/unit/verbs/test_ranks.py::test_a_missing_rank_is_named_and_the_previous_snapshot_stays",
    ),
    Mutation(
        name="ranks that have different files of one name are refused",
        file="snapshot/report.py",
        changes=(("if _content(first) != _content(entry):", "if False:"),),
        test="tests/unit/snapshot/test_report.py::test_two_things_under_one_name_are_refused",
    ),
    Mutation(
        name="a rank writes large files only as they were promised",
        file="verbs/ranks.py",
        changes=(("    _promise(us, tree)\n", ""),),
        test="tests/unit/verbs/test_ranks.py::test_a_twin_of_a_rank_with_other_content_never_writes_under_its_keys",
    ),
    Mutation(
        name="a rank that slept brings nothing back that was deleted",
        file="verbs/gathering.py",
        changes=(
            (
                "                self._check_kept()  # the snapshot may have come and gone while we slept\n",
                "                pass\n",
            ),
        ),
        test="tests/unit/verbs/test_ranks.py::test_a_rank_that_slept_before_it_committed_brings_nothing_back",
    ),
    Mutation(
        name="a twin of a rank replaces no file that is committed",
        file="transfer/upload_file.py",
        changes=(("        if not self.bench.shared:\n            return None\n", "        return None\n"),),
        test="tests/unit/verbs/test_ranks.py::test_a_twin_does_not_replace_a_file_that_is_committed",
    ),
    Mutation(
        name="a launch that was overtaken stays so",
        file="claims.py",
        changes=(
            ("            if self._was_launched(launch):\n                self.check_not_fenced(epoch - 1)\n", ""),
        ),
        test="tests/unit/verbs/test_ranks.py::test_an_old_launch_stays_fenced_however_many_came_since",
    ),
    Mutation(
        name="a rank compares what was committed with what it has",
        file="verbs/ranks.py",
        changes=(("    _check_same(us, manifest.entries, tree, beside=True)\n", ""),),
        test="tests/unit/verbs/test_ranks.py::test_other_content_after_the_commit_is_refused_and_touches_nothing",
    ),
    Mutation(
        name="gc spares what is being read",
        file="verbs/gc.py",
        changes=(("        | leased(run.store, now_s)\n", ""),),
        test="tests/unit/verbs/test_lease.py::TestSparing::test_gc_spares_what_is_being_read_until_it_is_not",
    ),
    Mutation(
        name="a manifest must be signed where readers ask for it",
        file="snapshot/envelope.py",
        changes=(("    check_signature(signature, required, name, version, body)\n", ""),),
        test="tests/unit/snapshot/test_signature.py::test_unsigned_is_refused",
    ),
)

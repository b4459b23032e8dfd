"""Rules of the index of words."""

from __future__ import annotations

from msgspec import structs

from runtime.store.write import commands
from runtime.store.write.batch import Batch
from runtime.store.write.commands import Request
from runtime.store.write.outcomes import Indexed, Outcome
from runtime.store.write.rules.rule import Rules


def _index_words(batch: Batch, request: Request, command: commands.IndexWords) -> Outcome:
    batch.index_rows["insert_search_entry"] += map(structs.astuple, command.entries)
    batch.index_rows["delete_from_search_queue"] += [(id,) for id in command.queue_ids]
    if command.backfilled is not None:
        batch.index_rows["update_search_backfill"].append(command.backfilled)
    if command.merged_pages:
        batch.index_rows["merge_word_segments"].append((command.merged_pages,))
    return Indexed(session_id="", version=0)


RULES: Rules = {commands.IndexWords: _index_words}

"""MMEB-V2's video retrieval: a caption, and all videos."""

from __future__ import annotations

from dataclasses import dataclass

from eval.sources import Source
from eval.task import EvalTask, Relevance, Targets
from eval.videos import FrameFinder, VideoRows, count_rows, read_first, read_rows, read_text
from unime.inputs.items import Item


@dataclass(frozen=True)
class VideoRetrieval(VideoRows):
    """A row is a video and its caption, or several of which the first is the query; the videos of
    all rows are searched, in their order."""

    text: str = "caption"  # column
    query_instruction: str = ""
    target_instruction: str | None = "Understand the content of the provided video."

    def read(self, name: str, source: Source) -> EvalTask:
        limit = source.data.limit
        tables = self.tables(source, (self.video, self.text))
        finder, targets = FrameFinder(source), Targets()
        queries: list[Item] = []
        relevance: list[Relevance] = []
        for row, where, _ in read_rows(tables, None, name):
            video = read_text(row, self.video, where)
            places = self.places(video)
            frames = finder.frames(places, where, self.video)
            # the same video in two rows is one target, called after the folder of its frames
            target = places[0].rsplit("/", 1)[-1]
            place = targets.place(target, self.item(self.target_instruction, video=frames))
            if limit is None or len(queries) < limit:
                text = read_first(row, self.text, where)
                queries.append(self.item(self.query_instruction, text))
                relevance.append({place: 1.0})
        return targets.task(name, count_rows(tables), queries, relevance)

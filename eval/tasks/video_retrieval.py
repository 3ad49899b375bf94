"""MMEB-V2's video retrieval (a caption, and all videos) and moment retrieval (a text, mostly with
the whole video, and some of its clips)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from eval.tasks.base import EvalTask, Relevance, Targets, each_once
from eval.tasks.sources import EvalSource
from eval.tasks.video_rows import (
    FrameFinder,
    Row,
    VideoRows,
    check_template,
    count_rows,
    read_first,
    read_rows,
    read_text,
)
from unime.errors import DataError
from unime.inputs.items import Item, natural_order


@dataclass(frozen=True)
class MomentRetrieval(VideoRows):
    """A row is a video and a text; the video's folder holds a folder `query_folder`, the frames of
    the whole, and one for each clip. Those that begin with `positive` are right.

    Clips are in the natural order of their names, which puts right ones last: of equal scores a
    wrong one wins.
    """

    video: str = "video_path"  # column
    text: str = "query"  # column
    query_folder: str = "query"
    positive: str = "positive"
    query_instruction: str = ""
    target_instruction: str | None = "Understand the content of the provided video."

    def read(self, name: str, source: EvalSource) -> EvalTask:
        tables = self.tables(source, (self.video, self.text))
        finder, targets = FrameFinder(source), Targets()
        queries: list[Item] = []
        relevance: list[Relevance] = []
        candidates: list[list[int]] = []
        for row, where, _ in read_rows(tables, source.data.limit, name):
            places = self.places(read_text(row, self.video, where))
            folder = finder.folder(places, where, self.video)
            video = finder.frames((f"{folder}/{self.query_folder}",), where, self.video)
            text = read_text(row, self.text, where)
            queries.append(self.item(self.query_instruction, text, video=video))
            own: list[int] = []
            right: Relevance = {}
            for clip in self._clips(source, folder):
                frames = finder.frames((clip,), where, self.video)
                item = self.item(self.target_instruction, video=frames)
                own.append(targets.place(clip, item))
                if PurePosixPath(clip).name.startswith(self.positive):
                    right[own[-1]] = 1.0
            if not right or len(own) < 2:
                raise DataError(
                    f"{where}, column {self.video!r}: {folder!r} holds {len(own)} clips, of which"
                    f" {len(right)} begin with {self.positive!r}"
                )
            candidates.append(own)
            relevance.append(right)
        return targets.task(name, count_rows(tables), queries, relevance, candidates)

    def _clips(self, source: EvalSource, folder: str) -> list[str]:
        below = Path(source.images().find_folder(folder)).iterdir()
        clips = [path for path in below if path.is_dir() and path.name != self.query_folder]
        return [f"{folder}/{path.name}" for path in sorted(clips, key=natural_order)]


@dataclass(frozen=True)
class MomentSeeker(VideoRows):
    """A row is a text, with a video, with a picture or alone, and its right and wrong clips; all
    right ones count.

    A path is a folder of frames by its name: up to ".mp4", with "_" in place of "/". A row without
    a video or picture has no path, or one without an ending.
    """

    video: str = "input_frames"  # column
    text: str = "query"  # column
    positives: str = "positive_frames"  # column: [{output_path}]
    negatives: str = "negative_frames"  # column: [{output_path}]
    pictures: str = "{video}"  # where a query's picture lies
    text_instruction: str = ""
    picture_instruction: str = ""
    video_instruction: str = ""
    target_instruction: str | None = "Understand the content of the provided video clip."

    def __post_init__(self) -> None:
        super().__post_init__()
        check_template("pictures", self.pictures, ("video",))

    def read(self, name: str, source: EvalSource) -> EvalTask:
        columns = (self.video, self.text, self.positives, self.negatives)
        tables = self.tables(source, columns)
        finder, targets = FrameFinder(source), Targets()
        queries: list[Item] = []
        relevance: list[Relevance] = []
        candidates: list[list[int]] = []

        def clips(row: Row, column: str, where: str) -> list[int]:
            found = []
            for path in read_paths(row, column, where):
                places = self.places(frames_name(path))
                frames = finder.frames(places, where, column)
                item = self.item(self.target_instruction, video=frames)
                found.append(targets.place(frames_name(path), item))
            return found

        for row, where, _ in read_rows(tables, source.data.limit, name):
            queries.append(self._query(row, where, finder))
            right = clips(row, self.positives, where)
            candidates.append(each_once(right + clips(row, self.negatives, where)))
            relevance.append(dict.fromkeys(right, 1.0))
        return targets.task(name, count_rows(tables), queries, relevance, candidates)

    def _query(self, row: Row, where: str, finder: FrameFinder) -> Item:
        text, path = read_text(row, self.text, where), row[self.video]
        if not isinstance(path, str | None):
            raise DataError(f"{where}, column {self.video!r}: got {path!r}, expected a path")
        path = path or ""
        ending = PurePosixPath(path).suffix
        if ending == ".mp4":
            video = finder.frames(self.places(frames_name(path)), where, self.video)
            return self.item(self.video_instruction, text, video=video)
        if ending == ".jpg":
            try:
                picture = finder.source.images().find(self.pictures.format(video=path))
            except DataError as error:
                raise DataError(f"{where}, column {self.video!r}: {path!r}: {error}") from None
            return self.item(self.picture_instruction, text, images=(picture,))
        if ending:
            raise DataError(
                f"{where}, column {self.video!r}: got {path!r}, expected .mp4, .jpg or no ending"
            )
        return self.item(self.text_instruction, text)


def frames_name(path: str) -> str:
    """What the folder of a video's frames is called."""
    return path.split(".mp4")[0].replace("/", "_")


def read_paths(row: Row, column: str, where: str) -> list[str]:
    """The paths of clips.

    Raises:
        DataError: no list of them, or an empty one.
    """
    value = row[column]
    try:
        paths = [entry["output_path"] for entry in value]
    except (TypeError, KeyError):
        paths = []
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise DataError(f"{where}, column {column!r}: got {value!r}, expected [{{output_path}}, …]")
    return paths


@dataclass(frozen=True)
class VideoRetrieval(VideoRows):
    """A row is a video and its caption, or several of which the first is the query; the videos of
    all rows are searched, in their order."""

    text: str = "caption"  # column
    query_instruction: str = ""
    target_instruction: str | None = "Understand the content of the provided video."

    def read(self, name: str, source: EvalSource) -> EvalTask:
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

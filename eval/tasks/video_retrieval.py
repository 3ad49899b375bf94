"""MMEB-V2's video retrieval (a caption, and all videos) and moment retrieval (a text, mostly with
the whole video, and some of its clips).

A row of ``VLM2Vec/MSVD``, of ``VLM2Vec/QVHighlight`` and of ``VLM2Vec/MomentSeeker``::

    {"video_id": "video0", "caption": ["a man cooks", "somebody is cooking"]}
    {"video_path": "/videos/film1.mp4", "query": "He opens the door."}
    {"input_frames": "film/b.mp4", "query": "What came after?",
     "positive_frames": [{"output_path": "film/b_1.mp4"}], "negative_frames": [{…}, …]}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from eval.tasks.base import EvalTask
from eval.tasks.video_rows import VideoRows, Videos, check_template
from unime.data.rows import Row
from unime.inputs.items import Item, natural_order


@dataclass(frozen=True)
class MomentRetrieval(VideoRows):
    """A row is a video and a text; the video's folder holds a folder `query_folder`, the frames of
    the whole, and one for each clip. Those that begin with `positive` are right.

    Clips are in the natural order of their names, which puts right ones last: of equal scores a
    wrong one wins.
    """

    columns: ClassVar = ("video", "text")
    video: str = "video_path"  # column
    text: str = "query"  # column
    query_folder: str = "query"
    positive: str = "positive"
    query_instruction: str = ""
    target_instruction: str | None = "Understand the content of the provided video."

    def ask(self, row: Row, videos: Videos, task: EvalTask) -> None:
        folder = videos.folder(videos.places(row.text(self.video)), row, self.video)
        video = videos.frames_in((f"{folder}/{self.query_folder}",), row, self.video)
        query = self.item(self.query_instruction, row.text(self.text), video=video)
        below = Path(videos.source.images().find_folder(folder)).iterdir()
        clips = [path for path in below if path.is_dir() and path.name != self.query_folder]
        own: dict[int, str] = {}
        for name in (path.name for path in sorted(clips, key=natural_order)):
            clip = f"{folder}/{name}"
            frames = videos.frames_in((clip,), row, self.video)
            own[task.place(clip, self.item(self.target_instruction, video=frames))] = name
        right = [place for place, name in own.items() if name.startswith(self.positive)]
        if not right or len(own) < 2:
            found = f"{len(own)} clips, of which {len(right)} begin with {self.positive!r}"
            raise row.error(f"{folder!r} holds {found}", self.video)
        task.ask(query, right, own)


@dataclass(frozen=True)
class MomentSeeker(VideoRows):
    """A row is a text, with a video, with a picture or alone, and its right and wrong clips; all
    right ones count.

    A path is a folder of frames by its name: up to ".mp4", with "_" in place of "/". A row without
    a video or picture has no path, or one without an ending.
    """

    columns: ClassVar = ("video", "text", "positives", "negatives")
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

    def ask(self, row: Row, videos: Videos, task: EvalTask) -> None:
        def clips(column: str) -> list[int]:
            found = []
            for name in map(frames_name, read_paths(row, column)):
                frames = videos.frames(name, row, column)
                found.append(task.place(name, self.item(self.target_instruction, video=frames)))
            return found

        query, right = self._query(row, videos), clips(self.positives)
        task.ask(query, right, right + clips(self.negatives))

    def _query(self, row: Row, videos: Videos) -> Item:
        text, path = row.text(self.text), row.text_or_none(self.video)
        ending = PurePosixPath(path).suffix
        if ending == ".mp4":
            video = videos.frames(frames_name(path), row, self.video)
            return self.item(self.video_instruction, text, video=video)
        if ending == ".jpg":
            with row.naming(self.video):
                picture = videos.source.images().find(self.pictures.format(video=path))
            return self.item(self.picture_instruction, text, images=(picture,))
        if ending:
            raise row.expected(".mp4, .jpg or no ending", self.video)
        return self.item(self.text_instruction, text)


def frames_name(path: str) -> str:
    """What the folder of a video's frames is called."""
    return path.split(".mp4")[0].replace("/", "_")


def read_paths(row: Row, column: str) -> list[str]:
    """The paths of clips.

    Raises:
        DataError: no list of them, or an empty one.
    """
    try:
        paths = [entry["output_path"] for entry in row[column]]
    except (TypeError, KeyError):
        paths = []
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise row.expected("[{output_path}, …]", column)
    return paths


@dataclass(frozen=True)
class VideoRetrieval(VideoRows):
    """A row is a video and its caption, or several of which the first is the query; the videos of
    all rows are searched, in their order."""

    columns: ClassVar = ("video", "text")
    whole: ClassVar = True
    text: str = "caption"  # column
    query_instruction: str = ""
    target_instruction: str | None = "Understand the content of the provided video."

    def ask(self, row: Row, videos: Videos, task: EvalTask) -> None:
        video, limit = row.text(self.video), videos.source.data.limit
        target = self.item(self.target_instruction, video=videos.frames(video, row, self.video))
        # the same video in two rows is one target, called after the folder of its frames
        place = task.place(PurePosixPath(videos.places(video)[0]).name, target)
        if limit is None or len(task.queries) < limit:
            several = isinstance(row[self.text], list)
            text = row.texts(self.text, first=1)[0] if several else row.text(self.text)
            task.ask(self.item(self.query_instruction, text), [place])

"""An exported folder on the hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from unime.config import ExportConfig
from unime.errors import ConfigError


def push(config: ExportConfig, folder: Path) -> None:
    """Upload a folder; credentials and address are huggingface_hub's (HF_TOKEN, HF_ENDPOINT).

    Raises:
        ConfigError: the hub refuses.
    """
    repository = str(config.push_to_hub)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files)
    kind = "private" if config.private else "public"
    print(f"{len(files)} files, {size / 1e9:.2f} GB, to {repository} ({kind} if it is new)")
    if config.dry_run:
        print("\n".join(f"  {path.relative_to(folder)}" for path in files))
        print(f"to upload them: hf upload {repository} {folder}")
        return
    api = HfApi()
    try:
        api.create_repo(repository, private=config.private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Export from unime"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"push_to_hub: {repository}: {reason}; the model is in {folder}, to upload it again:"
            f" hf upload {repository} {folder}"
        ) from None
    print(f"uploaded: {done.commit_url}")

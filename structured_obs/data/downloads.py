"""Downloads published files, and keeps them only if their SHA-256 is the published one."""

import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.request

_TIMEOUT = 60  # seconds of silence from the server


def sha256(path: str) -> str:
  """Returns the SHA-256 of a file, in hexadecimal."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def fetch(url: str, path: str, published: str) -> None:
  """Downloads one file, verifies it, and only then moves it into place.

  Args:
    url: of the published file.
    path: where to store it, in an existing folder.
    published: its SHA-256, in hexadecimal.

  Raises:
    ConnectionError: the download failed, or the disk is full.
    ValueError: the file is not the published one; the message has both digests.
  """
  folder, name = os.path.split(path)
  with tempfile.TemporaryDirectory(dir=folder, prefix=f'{name}.partial-') as partial:
    received = os.path.join(partial, name)
    try:
      with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, open(received, 'wb') as file:
        shutil.copyfileobj(answer, file)
    except (OSError, http.client.HTTPException) as error:
      raise ConnectionError(
        f'The download of {url} to {path} failed: '
        f'{str(error) or type(error).__name__}. Try again later, or get {name} by '
        'hand and put it into the folder --config.data.options.manual_dir=PATH.'
      ) from error
    found = sha256(received)
    if found != published:
      raise ValueError(
        f'The download of {url} is not the published file: the SHA-256 of {name} is '
        f'{found}, but should be {published}. It was not kept. Try again '
        'later, or get it by hand and put it into the folder '
        '--config.data.options.manual_dir=PATH.'
      )
    os.replace(received, path)

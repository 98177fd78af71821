"""Downloads of published files, which are kept only if their SHA-256 is the published one."""

import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.request

_TIMEOUT = 60  # seconds that the server may be silent


def sha256(path: str) -> str:
  """Returns the SHA-256 of a file, in hexadecimal."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def fetch(url: str, path: str, published: str) -> None:
  """Downloads one file, verifies it, and only then moves it to its place.

  Args:
    url: where the file is published.
    path: where it goes, in a folder that exists.
    published: its SHA-256, in hexadecimal.

  Raises:
    ConnectionError: where the download fails, or the disk is full.
    ValueError: where the file is not the published one, with both digests.
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
        f'{str(error) or type(error).__name__}. Start again later, or get {name} by '
        'hand and put it into the folder --config.data.options.manual_dir=PATH.'
      ) from error
    found = sha256(received)
    if found != published:
      raise ValueError(
        f'The download of {url} is not the published file: the SHA-256 of {name} is '
        f'{found}, but the published one is {published}. It was not kept. Start again '
        'later, or get it by hand and put it into the folder '
        '--config.data.options.manual_dir=PATH.'
      )
    os.replace(received, path)

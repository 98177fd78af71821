"""Opens a page in the browser to try a trained model by hand: paint, hide, denoise, interpolate.

  python -m launch.studio --workdir=runs/faces
  python -m launch.studio --workdir=runs/faces --compare=runs/faces_diagonal
  python -m launch.studio --workdir=runs/demo

--workdir is a run, or a folder of runs, all of which the page then offers. --compare shows further runs
beside it, on images of the same shape. Needs the extra studio (pip install 'structured_obs[studio]').

The page is served to this machine alone, unless --host names another address; it needs no network and
sends nothing anywhere. It works for every Gaussian family and wrapper, and for a Student t. Ctrl-C ends
it; what was painted stays in the browser.
"""

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from launch import common_flags, flags
from structured_obs.applications.studio import desk as desks
from structured_obs.runs import workdir as workdirs

_RUN = common_flags.Run()
_COMPARE = flags.define_paths('compare', 'Directories of other runs, separated by commas.')
_HOST = absl_flags.DEFINE_string('host', '127.0.0.1', 'Address to serve; 0.0.0.0 for all networks.')
_PORT = flags.define_integer('port', 7860, 'Port to serve; 0 for any free one.')
_OWN_SETTINGS = {  # of Gradio and of packages that it imports; read when they are imported
  'GRADIO_ANALYTICS_ENABLED': 'False',
  'GRADIO_SHARE': 'False',
  'GRADIO_MCP_SERVER': 'False',
  'HF_HUB_DISABLE_TELEMETRY': '1',
  'HF_HUB_OFFLINE': '1',
}
_POLICY = (  # what a browser may load for the page: only what this server sends
  "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
  "style-src 'self' 'unsafe-inline'; object-src 'none'; frame-ancestors 'self'"
)
MAX_UPLOAD = (
  '25mb'  # of what the server accepts; an image may have less, see applications/studio/files.py
)


def main(arguments: Sequence[str]) -> None:
  """Opens the runs of the flags and serves the page until Ctrl-C."""
  del arguments
  port = free_port(_HOST.value, _PORT.value)
  _need_gradio()
  names = runs_of(_RUN.workdir)
  opened = open_all(names, _COMPARE.value, _RUN.checkpoint)
  print(f'opened   {", ".join(opened)}')
  beside = list(opened)[len(names)] if _COMPARE.value else ''
  for name in [next(iter(opened)), *([beside] if beside else [])]:
    start = time.perf_counter()
    height, width, channels = opened[name].image
    print(f'compiling for {name}, {height} x {width} x {channels} pixels ...', flush=True)
    desks.warm_up(opened[name])
    print(f'compiled in {time.perf_counter() - start:.0f} s')
  blocks = serve(opened, _HOST.value, port, beside)
  print(f'studio   http://{_HOST.value}:{port}   (Ctrl-C ends it)', flush=True)
  try:
    while True:
      time.sleep(3600)
  finally:
    blocks.close(verbose=False)


def serve(opened: dict[str, desks.Desk], host: str, port: int, beside: str = '') -> Any:
  """Starts the server in threads of its own, and returns the page, whose `close` ends it.

  Args:
    opened: runs by name.
    host: address.
    port: a free one.
    beside: name of the run that is shown beside the first.
  """
  os.environ.update(_OWN_SETTINGS)
  from gradio import themes

  from launch import studio_events, studio_page

  blocks = studio_page.build(studio_events.Page(opened), beside)
  fonts: dict[str, Any] = {
    'font': ['system-ui', 'sans-serif'], 'font_mono': ['ui-monospace', 'monospace']
  }  # fmt: skip
  blocks.queue(api_open=False, default_concurrency_limit=2)
  blocks.launch(
    server_name=host, server_port=port, share=False, inbrowser=False, quiet=True, show_error=True,
    prevent_thread_lock=True, max_file_size=MAX_UPLOAD, footer_links=[], run_history=False,
    enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False,
    theme=themes.Default(**fonts), css_paths=studio_page.CSS,
    app_kwargs={'middleware': _middleware(), 'docs_url': None, 'redoc_url': None, 'openapi_url': None},
  )  # fmt: skip
  return blocks


def runs_of(workdir: str) -> list[str]:
  """Returns the directories of runs that a path names: itself, or those in it, the newest first.

  Raises:
    FileNotFoundError: there are none.
  """
  path = Path(workdir)
  within = [one.parent for one in path.glob(f'*/{workdirs.FILE}')]
  if within and not (path / workdirs.FILE).is_file():
    newest = sorted(within, key=lambda one: (one / workdirs.FILE).stat().st_mtime, reverse=True)
    return [str(one) for one in newest]
  workdirs.read(path)  # says what is wrong if there is none
  return [workdir]


def open_all(names: Sequence[str], compare: Sequence[str], checkpoint: str) -> dict[str, desks.Desk]:
  """Opens runs, and returns them by name.

  Runs of a folder that the studio cannot work with are left out, with a line that says why.

  Args:
    names: directories of `--workdir`.
    compare: directories of `--compare`.
    checkpoint: of all.

  Raises:
    FileNotFoundError, ValueError: as `desk.open_run`; or runs have images of different shapes or data.
  """
  found: dict[str, desks.Desk] = {}
  for flag, path in [*(('--workdir', one) for one in names), *(('--compare', one) for one in compare)]:
    try:
      desk = desks.open_run(path, checkpoint, flag)
      first = next(iter(found.values()), desk)
      if desk.trained.spec.sha256 != first.trained.spec.sha256 or desk.image != first.image:
        raise ValueError(
          f'{flag}={path} has other images than {first.trained.workdir}: {tuple(desk.image)} of '
          f'{desk.trained.spec.source}, not {tuple(first.image)} of {first.trained.spec.source}; '
          'compare runs on the same images.'
        )
    except (ValueError, FileNotFoundError) as error:
      if flag == '--compare' or len(names) == 1:
        raise
      print(f'left out {path}: {error}')
      continue
    name = desk.trained.name if desk.trained.name not in found else path
    found[name] = desk
  if not found:
    raise ValueError(f'--workdir={Path(names[0]).parent} has no run that the studio can work with.')
  return found


def free_port(host: str, port: int) -> int:
  """Returns the port, or a free one for 0.

  Raises:
    ValueError: the host is not an address of this machine, or the port is in use.
  """
  if port > 65535:
    raise ValueError(f'--port={port} is out of range; it must be from 0 to 65535.')
  with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      probe.bind((host, port))
    except (OSError, OverflowError) as error:
      raise ValueError(
        f'--host={host} --port={port} cannot be served: {error}. Choose another --port, such as 0 for '
        'any free one.'
      ) from error
    return int(probe.getsockname()[1])


def _need_gradio() -> None:
  os.environ.update(_OWN_SETTINGS)
  try:
    import gradio  # noqa: F401
  except ImportError as error:
    raise ImportError("The studio needs gradio: pip install 'structured_obs[studio]'.") from error


def _middleware() -> list[Any]:
  """Returns what adds the policy to every answer."""
  from starlette.middleware import Middleware

  class Policy:
    """Adds headers that keep the page from loading anything from elsewhere."""

    def __init__(self, app: Any):
      self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
      async def with_policy(message: Any) -> None:
        if message['type'] == 'http.response.start':
          added = [(b'content-security-policy', _POLICY.encode()), (b'referrer-policy', b'no-referrer')]
          message = {**message, 'headers': [*message.get('headers', []), *added]}
        await send(message)

      await self.app(scope, receive, with_policy)

  return [Middleware(Policy)]


if __name__ == '__main__':
  flags.run(main)

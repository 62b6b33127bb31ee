"""The server of the page that explores a run: on this machine alone, unless it is told otherwise."""

import socket
from importlib.util import find_spec
from pathlib import Path

from slices.uploads import LARGEST
from utils import UserError, warn

STREAMLIT = "streamlit==1.67.0"  # as tested
PAGE = Path(__file__).with_name("explore_page.py")
HERE = "127.0.0.1"


def explore(run, host=HERE, port=8501):
    """Serve the page of a Run until Ctrl-C.

    Args:
        run: Run.
        host: the address of this machine to listen at.
        port: int.

    Raises:
        UserError: Streamlit is not installed, or the address cannot be listened at.
    """
    if find_spec("streamlit") is None:
        raise UserError(f"the page needs Streamlit: pip install {STREAMLIT}")
    check_address(host, port)
    from streamlit import net_util
    from streamlit.web import cli

    net_util.get_external_ip = lambda: None  # it would ask a server outside
    if host != HERE:
        warn(f"whoever reaches {host} can use the page, and nothing on the way is encrypted")
    print(f"the page of {run.name} is at http://{address(host)}:{port}; Ctrl-C ends it", flush=True)
    flags = [f"--{name}={value}" for name, value in settings(host, port)]
    cli.main(["run", str(PAGE), *flags, "--", str(run.folder), str(run.data)], standalone_mode=False)


def check_address(host, port):
    """Raise a UserError where nothing can listen at an address."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise UserError(
            f"nothing can listen at {host}, port {port} ({error.strerror}): choose another --port or --host"
        ) from None


def address(host):
    """A host as it stands in an address."""
    return f"[{host}]" if ":" in host else host


def settings(host, port):
    """What Streamlit is told, whatever its own files say: list of (name, value)."""
    return [
        ("server.address", host),
        ("server.port", port),
        *(("server.allowedHosts", name) for name in (HERE, "localhost") if host == HERE),  # no other name leads here
        ("server.headless", "true"),
        ("server.showEmailPrompt", "false"),
        ("server.fileWatcherType", "none"),
        ("server.maxUploadSize", LARGEST),
        ("browser.gatherUsageStats", "false"),
        ("client.toolbarMode", "minimal"),
        ("client.showErrorDetails", "none"),
        ("logger.hideWelcomeMessage", "true"),
    ]

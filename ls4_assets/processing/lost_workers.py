"""Why a worker of the pool returned no outcome for a file that exceeded a limit of time."""

from concurrent.futures import TimeoutError as FutureTimeoutError

from pebble import ProcessExpired

from ls4_assets.processing.header_limit import EXIT_CODES


def explain_time_limit(name: str, error: BaseException, timeout_seconds: float) -> str | None:
    """Return the reason for staff; None when the worker was lost for another reason."""
    if isinstance(error, FutureTimeoutError):
        limit = f"{timeout_seconds:.0f} s"
        return f"{name} took longer than {limit} and was stopped; ask the operator to raise LS4_FRAME_TIMEOUT_SECONDS."
    if isinstance(error, ProcessExpired) and error.exitcode in EXIT_CODES:
        limit = f"{EXIT_CODES[error.exitcode]:.0f} s"
        return (
            f"{name} took more than {limit} before its first pixel was read, so its header or a sidecar is corrupt; "
            "delete its sidecars, convert it with gdal_translate and drop the result."
        )
    return None

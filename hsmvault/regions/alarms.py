"""What an operator must look at, kept until it is over."""

import threading


class Alarms:
    """Alarms by subject: at most one each, the newest. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: dict[str, str] = {}

    def sound(self, subject: str, text: str) -> None:
        """Show an alarm until `clear` is called for the same subject."""
        with self._lock:
            self._texts[subject] = text

    def clear(self, subject: str) -> None:
        """End the subject's alarm, if there is one."""
        with self._lock:
            self._texts.pop(subject, None)

    def texts(self) -> tuple[str, ...]:
        """All alarms, by subject."""
        with self._lock:
            return tuple(f"{s}: {self._texts[s]}" for s in sorted(self._texts))

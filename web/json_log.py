"""Log lines as JSON, one object a line, for programs that collect logs."""

import json
import logging
import re
import time

JOB_PATTERN = re.compile(r"^job (\S{6}): ")


class JsonFormatter(logging.Formatter):
    """Formats a record as {"time", "level", "logger", "message"}, with "job" and "exception" where there are any.

    The program's own messages name jobs by the first six characters of their id, and never files or secrets.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON."""
        message = record.getMessage()
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z", "level": record.levelname.lower(), "logger": record.name,
            "message": message,
        }  # fmt: skip
        if job := JOB_PATTERN.match(message):
            line["job"] = job.group(1)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)  # in ASCII, which is in every encoding that standard output may have

"""Messages of a command go to stderr as plain lines, and only while it runs."""

import logging

import pytest

from dsdiff.system import console


def test_messages_are_plain_lines_on_stderr(capsys):
    path = "/a/rather/long/path/" + 20 * "folder/" + "[1] file.nii.gz"
    with console.log_to_terminal():
        logging.getLogger("dsdiff.data.store").info(path)
        logging.getLogger("dsdiff.data.store").warning("a warning")
        logging.getLogger("dsdiff.data.store").debug("a detail")
    logging.getLogger("dsdiff.data.store").info("after the command")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"{path}\na warning\n")


def test_the_logger_is_afterwards_as_before():
    logger = logging.getLogger("dsdiff")
    settings = (logger.level, logger.propagate, list(logger.handlers))
    with pytest.raises(ZeroDivisionError), console.log_to_terminal():
        raise ZeroDivisionError
    assert (logger.level, logger.propagate, list(logger.handlers)) == settings


def test_silence_hides_messages_of_all_processes_but_the_first(capsys):
    with console.log_to_terminal():
        with console.silence(True):
            logging.getLogger("dsdiff").warning("of another process")
        with console.silence(False):
            logging.getLogger("dsdiff").warning("of the first process")
    assert capsys.readouterr().err == "of the first process\n"


def test_progress_bars_print_nothing_without_a_terminal(capsys):
    with console.progress_bars(count=True) as progress:
        progress("reading", 0, 2)
        progress("reading", 2, 2)
        progress("training", 1, 5, "(loss 0.5)")
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""

"""How a script of tests runs them, and their count at its end, as tests/run.py reads it. The script's last
words may choose: --part K/N (each N-th test from the K-th on), or tests by name (Class, Class.test)."""
import re
import sys
import unittest


def each(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from each(test)
        else:
            yield test


def chosen():
    loader, main = unittest.defaultTestLoader, sys.modules["__main__"]
    names = [word for word in sys.argv[1:] if hasattr(main, word.split(".")[0])]
    if names:
        return loader.loadTestsFromNames(names, main)
    part = re.fullmatch(r"(\d+)/(\d+)", sys.argv[-1]) if sys.argv[-2] == "--part" else None
    tests = list(each(loader.loadTestsFromModule(main)))
    return unittest.TestSuite(tests[int(part[1]) - 1::int(part[2])] if part else tests)


def run_and_count():
    """Runs the tests of the script that was started; its exit status."""
    result = unittest.TextTestRunner(verbosity=1).run(chosen())
    bad = len(result.failures) + len(result.errors)
    print(f"[  PASSED  ] {max(result.testsRun - bad - len(result.skipped), 0)} test(s).")
    if result.skipped:
        print(f"[  SKIPPED ] {len(result.skipped)} test(s).")
    if bad:
        print(f"[  FAILED  ] {bad} test(s).")
    return 1 if bad else 0

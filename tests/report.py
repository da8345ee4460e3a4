"""The end of a script of tests: their count, as tests/run.py reads it."""
import sys
import unittest


def run_and_count():
    """Runs the tests of the script that was started; its exit status."""
    result = unittest.main(argv=sys.argv[:1], exit=False, verbosity=1).result
    bad = len(result.failures) + len(result.errors)
    print(f"[  PASSED  ] {max(result.testsRun - bad - len(result.skipped), 0)} test(s).")
    if result.skipped:
        print(f"[  SKIPPED ] {len(result.skipped)} test(s).")
    if bad:
        print(f"[  FAILED  ] {bad} test(s).")
    return 1 if bad else 0

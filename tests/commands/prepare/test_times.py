"""Times in the forms of other programs, and what may mean two days."""

from __future__ import annotations

import pandas as pd
import pytest

from recbole_vsid.commands.prepare.times import is_clock, read_times


def seconds(text):
    return int(pd.Timestamp(text, tz="UTC").timestamp())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["2019-10-01 00:00:00 UTC", "2019-10-01 09:05:58"], ["2019-10-01", "2019-10-01 09:05:58"]),
        (["2019-10-01 00:00:00 GMT"], ["2019-10-01"]),
        (["2019-10-01 UTC"], ["2019-10-01"]),
        (["2019-10-01T00:00:00Z[UTC]"], ["2019-10-01"]),
        (["2019-10-01T02:00:00+02:00[Europe/Berlin]"], ["2019-10-01"]),
        (["2019-10-01 00:00:00 +0000 UTC"], ["2019-10-01"]),
        (["2019/10/01 9:05:58 PM"], ["2019-10-01 21:05:58"]),
        (["11/15/2019 9:05:58 AM", "11/9/2019 12:05:58 PM"], ["2019-11-15 09:05:58", "2019-11-09 12:05:58"]),
        (["01/02/2019", "13/04/2019 10:00"], ["2019-02-01", "2019-04-13 10:00"]),
        (["1-2-2019", "1-15-2019"], ["2019-01-02", "2019-01-15"]),
        (["01.10.2019", "02.03.2019 9:05"], ["2019-10-01", "2019-03-02 09:05"]),
        (["09 13, 2014", "1 2, 2015"], ["2014-09-13", "2015-01-02"]),
        (["Oct 1, 2019", "October 12, 2019, 9:05 pm"], ["2019-10-01", "2019-10-12 21:05"]),
        (["Sept. 3rd, 2012 at 9:05"], ["2012-09-03 09:05"]),
        (["3 Apr 2012", "03-Apr-2012 10:00:01"], ["2012-04-03", "2012-04-03 10:00:01"]),
        (["Tue Apr 03 18:00:09 +0000 2012", "Mon Mar 05 09:01:02 -0800 2012"],
         ["2012-04-03 18:00:09", "2012-03-05 17:01:02"]),
        (["Thu Apr  3 18:00:09 2012", "Fri Mar 13 10:00:00 UTC 2020"], ["2012-04-03 18:00:09", "2020-03-13 10:00"]),
        (["Tue, 03 Apr 2012 18:00:09 GMT"], ["2012-04-03 18:00:09"]),
        (["Tue Apr 03 2012 18:00:09 GMT+0200 (CEST)"], ["2012-04-03 16:00:09"]),
    ],
)  # fmt: skip
def test_usual_forms(given, expected):
    found, exact, unit, _ = read_times(pd.Series(given), "here")
    assert found.tolist() == [seconds(text) for text in expected]
    assert unit is not None and (exact // 10**9).tolist() == found.tolist()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["13/01/2019", "01/02/2019"], "read as day, month, year, as row 1 tells"),
        (["01/02/2019", "01/13/2019"], "read as month, day, year, as row 2 tells"),
        (["20190101", "20190231"], None),
        ([20190101, 20191231], "time_format=%Y%m%d reads them as days"),
    ],
)
def test_what_was_decided_is_told(given, told):
    notes = read_times(pd.Series(given), "here")[3]
    assert [told in note for note in notes] == ([True] if told else [])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["01/02/2019", "03/04/2019"], r"'01/02/2019' in row 1 may be .*no row tells.*--time_format='%d/%m/%Y' or"),
        (["01-02-2019 10:00:01"], "--time_format='%m-%d-%Y %H:%M:%S'"),
        (["13/01/2019", "01/13/2019"], r"that of row 2 first \('01/13/2019'\)"),
        (["10.13.2019"], "that of row 1 first .*time_format names one"),
        (["01/02/19", "13/02/19"], "that of row 1 first"),  # may also be 1919, or the 19th of February 2001
        (["19/10/01", "19/10/02"], "that of row 1 first"),
        (["2019-10-01 00:00:00 PST"], "that of row 1 first"),
        (["2019-10-01 UTC", "Oct 1, 2019"], "that of row 2 first"),
        ([["2019-10-01"], ["2019-10-02"]], "that of row 1 first"),
    ],
)
def test_what_may_mean_two_times_is_refused(given, told):
    with pytest.raises(ValueError, match=f"here.*{told}"):
        read_times(pd.Series(given), "here")


@pytest.mark.parametrize(
    ("given", "time_format", "expected"),
    [
        (["01/02/2019", "03/04/2019"], "%d/%m/%Y", ["2019-02-01", "2019-04-03"]),
        ([20190102, 20190103], "%Y%m%d", ["2019-01-02", "2019-01-03"]),
        ([20190102.0], "%Y%m%d", ["2019-01-02"]),
        (["01/02/19 5h"], "%m/%d/%y %Hh", ["2019-01-02 05:00"]),
        (["2019-10-01T10 +0200"], "%Y-%m-%dT%H %z", ["2019-10-01 08:00"]),
    ],
)
def test_a_named_format(given, time_format, expected):
    found, _, unit, _ = read_times(pd.Series(given), "here", time_format)
    assert found.tolist() == [seconds(text) for text in expected] and unit == f"dates in the format {time_format}"


@pytest.mark.parametrize(
    ("time_format", "told"),
    [
        ("%d/%m/%Y", r"here: 1 of 2 times cannot be read, that of row 8 first \('x'\); time_format='%d/%m/%Y' must"),
        ("%Q", "time_format='%Q' is not usable"),
        ("%d %", "time_format='%d %' is not usable"),
        ("%d %d", "time_format='%d %d' is not usable"),
        ("day", "it must be a format of strptime"),
        (3, "it must be a format of strptime"),
    ],
)
def test_formats_that_are_refused(time_format, told):
    with pytest.raises(ValueError, match=told):
        read_times(pd.Series(["01/02/2019", "x"], index=[2, 7]), "here", time_format)


def test_times_of_day():
    assert is_clock(pd.Series(["9:05", "14:05:30", "2:05:30.5 pm"]))
    assert not is_clock(pd.Series(["9:05", "late"])) and not is_clock(pd.Series([1, 2]))

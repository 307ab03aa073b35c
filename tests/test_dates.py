"""``{date}`` in flags: filled in when the job starts, on the caller's calendar."""

from __future__ import annotations

import datetime
import zoneinfo

import pytest

from pipeline.flags import dates
from pipeline.flags.flag import UsageError
from pipeline.flags.parse import parse
from transforms.specs.errors import SpecError

NEEDED = [
    "--model=gs://b/models/{date:%Y}/",
    "--input=gs://b/in/{date:%Y/%m/%d}/*,gs://b/in/{date-1:%Y/%m/%d}/*",
    "--output=gs://b/out/{date}",
]


def test_one_body_serves_every_night() -> None:
    found = parse([*NEEDED, "--date=2026-03-01", "--run_id=nightly-{date:%Y%m%d}"])
    assert found.model == "gs://b/models/2026/"
    assert found.input == ("gs://b/in/2026/03/01/*", "gs://b/in/2026/02/28/*")
    assert found.output == "gs://b/out/2026-03-01"
    assert found.run_id == "nightly-20260301"
    assert ("output", "gs://b/out/{date}") in found.given


def test_today_is_the_time_zones() -> None:
    for zone in ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"):  # the last two never share a day
        before = datetime.datetime.now(zoneinfo.ZoneInfo(zone)).date()
        found = parse([*NEEDED, f"--time_zone={zone}"]).output
        after = datetime.datetime.now(zoneinfo.ZoneInfo(zone)).date()
        assert found in {f"gs://b/out/{before}", f"gs://b/out/{after}"}
    assert parse([*NEEDED, "--time_zone=Pacific/Kiritimati"]).output != parse([*NEEDED, "--time_zone=Pacific/Pago_Pago"]).output


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("a{b}{site}{}{dates}", "a{b}{site}{}{dates}"),
        ("{date:%%%d}", "%26"),
        ("{date+40:%Y-%m}", "2027-01"),
        ("{date-0365}", "2025-11-26"),
        ("{date:%H%M}", "0000"),
        ("{{date}}", "{2026-11-26}"),
    ],
)
def test_what_is_filled_in(text: str, filled: str) -> None:
    assert dates.fill("input", text, dates.moment(datetime.date(2026, 11, 26), dates.UTC)) == filled


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{date:%Q}", "{date:%Q} holds %Q; expected {date:FORMAT} with some of %Y %m %d"),
        ("{date:%}", "holds %;"),
        ("{date:2026}", "holds no directive"),
        ("{date:}", "holds no directive"),
        ("{date", "{date is no date; expected {date}"),
        ("{Date}", "{Date} is no date"),
        ("{date:%Y{date}", "is no date"),
        ("{date-1d}", "{date-1d} is no date"),
    ],
)
def test_what_only_looks_like_a_date_is_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError) as refusal:
        parse([*NEEDED, f"--errors=gs://b/{text}"])
    assert str(refusal.value).startswith("--errors: ")
    assert words in str(refusal.value)


@pytest.mark.parametrize("flag", ["--time_zone=Mars/Base", "--time_zone=", "--time_zone=../etc", "--date=26.11.2026", "--date=2026-02-30"])
def test_bad_zones_and_days(flag: str) -> None:
    with pytest.raises(UsageError, match="expected a"):
        parse([*NEEDED, flag])

"""The page for operators of an external store says what the code needs."""

import re
from pathlib import Path

from ignite.secretstores import policies

PAGE = (Path(__file__).parents[2] / "docs/operations/secrets.md").read_text()


def test_policy_on_the_page_is_the_one_we_need() -> None:
    (printed,) = re.findall(r"```hcl\n(.*?)\n```", PAGE, re.DOTALL)
    assert printed == policies.platform_policy("secret")


def test_token_role_on_the_page_is_the_one_we_need() -> None:
    for name, value in policies.token_role().items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        assert f"{name}={text}" in PAGE.replace("'", "")

"""An administrator registers a model from a folder and sets a quota that bites, in a real browser on a real Slurm."""

from __future__ import annotations

import asyncio
import json
import struct
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from devstack.checkout import ROOT
from playwright.async_api import Browser, ConsoleMessage, Page, expect

from tests.api.world import FOUND
from tests.slurm.whole import Whole

pytestmark = pytest.mark.slurm
PICTURES = ROOT / "screenshots"
SLURM_MS = 150_000


def _folder(models: Path) -> Path:
    """Make the smallest thing that is a model's folder."""
    folder = models / "tide-1b"
    folder.mkdir(parents=True)
    config = {
        "architectures": [FOUND["architecture"]],
        "torch_dtype": "bfloat16",
        "max_position_embeddings": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_size": 2048,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    header = b'{"a":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}}'
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    return folder


@pytest.fixture
async def admin(browser: Browser, whole: Whole) -> AsyncIterator[Page]:
    """Open a browser in which the administrator has logged in. No script may fail, and no policy be
    broken."""
    context = await browser.new_context(base_url=whole.site.url)
    page = await context.new_page()
    wrong: list[str] = []

    def heard(said: ConsoleMessage) -> None:
        if "Content Security Policy" in said.text:
            wrong.append(said.text)

    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", heard)
    await page.goto("/login/")
    name, password = whole.berth.logins["admin"]
    await page.get_by_label("User").fill(name)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("heading", name="Models")).to_be_visible()
    yield page
    await context.close()
    assert wrong == []


async def picture(page: Page, name: str) -> None:
    """Take a picture, light and dark, to be looked at."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        await page.screenshot(path=PICTURES / f"{name}-{scheme}.png", full_page=True)
    await page.emulate_media(color_scheme="light")


def ask(whole: Whole, model: str) -> int:
    """Return the status of one question, with the token of a person of the project."""
    body = {"model": model, "messages": [{"role": "user", "content": "one two"}], "max_tokens": 8}
    request = urllib.request.Request(
        f"{whole.site.url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {whole.berth.token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


async def test_a_model_is_registered_tried_and_limited(whole: Whole, admin: Page, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "models")
    await asyncio.to_thread(whole.empty)

    # The project gets its roots.
    await admin.get_by_role("link", name="Admin", exact=True).click()
    await picture(admin, "admin-index")
    await admin.get_by_role("link", name="Projects", exact=True).click()
    await admin.get_by_role("link", name="demo", exact=True).click()
    await admin.get_by_label("Model roots").fill(json.dumps([str(folder.parent)]))
    await picture(admin, "admin-project")
    await admin.get_by_role("button", name="Save", exact=True).click()
    await expect(admin.get_by_text("was changed successfully")).to_be_visible()
    await admin.get_by_role("link", name="Back to Berth").click()

    # A folder is named; a link out of the roots is found by the job, not by the page.
    (folder.parent / "away").symlink_to("/etc")
    await admin.get_by_role("link", name="Register a model").click()
    await picture(admin, "register")
    await name_folder(admin, "away", folder.parent / "away")
    await picture(admin, "register-waiting")
    await expect(admin.get_by_role("alert")).to_contain_text("does not lie below", timeout=SLURM_MS)
    await picture(admin, "register-failed")
    await admin.get_by_role("link", name="← Register a model").click()

    # The real one: proposed, saved, tried.
    await name_folder(admin, "tide-1b", folder)
    await admin.get_by_role("link", name="View the proposal").click(timeout=SLURM_MS)
    await expect(admin.get_by_text("It looks like a model for chat")).to_be_visible()
    await expect(admin.get_by_label("Context length, tokens")).to_have_value("8192")
    await admin.get_by_label("Environment").select_option("demo-echo")
    await admin.get_by_label("Host memory, MiB").fill("500")
    await admin.get_by_label("Keep-alive, seconds").fill("20")
    await picture(admin, "register-proposal")
    await admin.get_by_role("button", name="Save model").click()
    await admin.get_by_role("button", name="Test launch").click()
    await expect(admin.get_by_text("Test: tide-1b works.")).to_be_visible(timeout=SLURM_MS)
    await picture(admin, "register-saved")
    assert await asyncio.to_thread(ask, whole, "tide-1b") == 200

    # A quota that bites.
    await admin.goto("/admin/accounts/quota/add/")
    await admin.get_by_label("Level").select_option("model")
    await admin.locator("#id_model").fill("tide-1b")  # its label is a word of others, too
    await admin.get_by_label("Requests per min").fill("1")
    await picture(admin, "admin-quota")
    await admin.get_by_role("button", name="Save", exact=True).click()
    await expect(admin.get_by_text("was added successfully")).to_be_visible()
    statuses: list[int] = []

    def bitten() -> bool:
        statuses.append(ask(whole, "tide-1b"))
        return statuses[-1] == 429

    await asyncio.to_thread(whole.until, bitten, 120, "a refusal")
    assert set(statuses) <= {200, 429}

    # Who did it.
    await admin.goto(f"/admin/audit/change/?q={whole.berth.logins['admin'][0]}")
    row = admin.get_by_role("row").filter(has_text="accounts.Quota")
    await expect(row).to_contain_text("requests_per_min: 1")
    await expect(row).to_contain_text("admin pages")
    await expect(admin.get_by_role("row").filter(has_text="catalog.Pool").first).to_contain_text("tide-1b")
    await picture(admin, "admin-audit")
    for table in ("accounts/user", "catalog/model", "catalog/pool", "catalog/profile"):
        await admin.goto(f"/admin/{table}/")
        await picture(admin, f"admin-{table.replace('/', '-')}")
    await admin.goto("/admin/catalog/profile/1/change/")
    await picture(admin, "admin-profile-form")
    await admin.goto("/admin/catalog/model/1/change/")
    await picture(admin, "admin-model-form")
    whole.rows("DELETE FROM accounts_quota")
    whole.rows("UPDATE catalog_model SET enabled = false WHERE name = 'tide-1b'")
    await asyncio.to_thread(whole.empty)


async def name_folder(page: Page, name: str, path: Path) -> None:
    await page.get_by_role("textbox", name="Name").fill(name)
    await page.get_by_role("textbox", name="Folder").fill(str(path))
    await page.get_by_role("button", name="Inspect").click()
    await expect(page.get_by_role("heading", name=name)).to_be_visible()

"""MLflow's pages of a search, in a real browser: what people see of it."""

import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import yaml

from stillhouse.search.driver.launch import launch
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.monitoring.mlflow import runs_url

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="needs a browser: apt-get install chromium chromium-driver",
    ),
]
FLAGS = (
    *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
    *("disable-dev-shm-usage", "window-size=1600,1100"),
)
PATIENCE = 480


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """``stillhouse ui`` on a finished search: the page it names, and the port."""
    from tests.search.conftest import TINY

    folder = tmp_path_factory.mktemp("pages")
    told = {**TINY, "run": {**TINY["run"], "trials": 3, "repeats": {"top": 1, "seeds": 2}}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        launched = launch(load_experiment(folder / "tiny.yaml"), inline=True)
        assert launched.state == "finished"
        page = runs_url(launched.tracking, "tiny", port)
        command = [sys.executable, "-m", "stillhouse.search.cli", "ui", "tiny", "--port", str(port)]
        with (folder / "ui.log").open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait(lambda: _answers(port))
        assert page in (folder / "ui.log").read_text()
        yield page
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


def _answers(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def _wait(condition):
    start = time.monotonic()
    while not (found := condition()):
        assert time.monotonic() - start < PATIENCE
        time.sleep(0.5)
    return found


@pytest.fixture
def browser(tmp_path):
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"user-data-dir={tmp_path / 'browser'}"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(PATIENCE)
    yield driver
    driver.quit()


def _shown(browser, *words):
    """The page's text, when it holds all the words."""

    def there():
        text = browser.execute_script("return document.body ? document.body.innerText : ''")
        return text if all(word in text for word in words) else None

    try:
        return _wait(there)
    except AssertionError:
        text = browser.execute_script("return document.body.innerText")
        pytest.fail(f"{browser.current_url} does not show {words} but:\n{text}")


def test_a_search_as_people_see_it(pages, browser):
    # One row of the search, and all of its runs below it.
    browser.get(pages)
    text = _shown(browser, "tiny-1", "matching runs")
    assert "trial 0" not in text
    _click(browser, "[role=gridcell][col-id*='Run Name'] button")
    text = _shown(browser, *(f"trial {number}" for number in range(3)), "teacher", "assistants/")
    assert "student (trial" in text  # the repeats tell whose they are

    # The search's own page: what it came to.
    _follow(browser, "tiny-1")
    text = _shown(browser, "best.val_accuracy", "Child runs", "stillhouse.winner")
    assert "trials.finished" in text
    assert "goal.maximize" in text
    here = browser.current_url.rstrip("/")
    browser.get(f"{here}/artifacts")
    _shown(browser, "report.html", "size.png", "best.yaml", "trials.csv", "experiment.yaml")

    # A trial's page: its curve by epoch.
    browser.get(f"{pages}?searchFilter=tags.%60stillhouse.kind%60%20%3D%20%27trial%27")
    _shown(browser, "trial 1")
    _follow(browser, "trial 1")
    _shown(browser, "val_accuracy", "train_loss", "parameters")
    browser.get(f"{browser.current_url.rstrip('/')}/model-metrics")
    _shown(browser, "val_accuracy", "trial 1 (")
    _wait(lambda: browser.execute_script(POINTS) >= 2)  # an epoch each


def _click(browser, selector):
    _wait(lambda: browser.execute_script(CLICK, selector))


CLICK = "const e = document.querySelector(arguments[0]); if (e) e.click(); return Boolean(e);"
POINTS = "return document.querySelectorAll('.scatterlayer .point').length"


def _follow(browser, title):
    """Click the link of that title."""
    from selenium.webdriver.common.by import By

    _wait(lambda: browser.find_elements(By.LINK_TEXT, title))[0].click()
    _wait(lambda: "/runs/" in browser.current_url)

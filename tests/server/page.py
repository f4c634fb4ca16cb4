"""The chat page in a headless browser: a message is sent, its answer comes streaming, an answer is stopped, themes, a phone's size.

    page.py [--available] [--screenshots FOLDER]

--available: only says (exit status) whether there is a browser: playwright's own, or chromium of the system.
"""
import argparse
import os
import re
import shutil
import sys

from playwright.sync_api import expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def launch(p):
    if CHROMIUM:
        return p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    return p.chromium.launch()


def available():
    with sync_playwright() as p:
        try:
            launch(p).close()
        except Exception as e:  # whatever is missing, there is no browser
            print(f"no browser: {str(e).splitlines()[0]}")
            return 1
    return 0


def say(page, text):
    page.fill("#input", text)
    page.click("#send")


def wait_for_answer(page):
    expect(page.locator("#send")).to_have_text("Send", timeout=120000)


def talk(page, server, shot):
    from common import check, equal
    page.goto(server.url)
    expect(page.locator("#model")).to_contain_text("context")
    equal(page.locator("#talk .empty").count(), 1, "an empty conversation")
    shot("empty")
    page.click("#options")
    page.fill("#length", "60")
    page.click("#settings button")
    say(page, "Tell me about <b>rivers</b>.")
    equal(page.locator(".message.user").inner_text(), "Tell me about <b>rivers</b>.", "the message as it was written")
    equal(page.locator(".message.user b").count(), 0, "text does not become markup")
    wait_for_answer(page)
    check(page.locator(".message.assistant .text").inner_text().strip(), "an answer")
    check("of 1024 tokens" in page.locator("#count").inner_text(), "context use")
    equal(page.locator(".message.failed").count(), 0, "no failure")
    shot("answered")
    say(page, "And lakes?")
    wait_for_answer(page)
    equal(page.locator(".message.assistant").count(), 2, "a second answer")
    check("reused" in page.locator("#speed").inner_text(), "the first turn is reused")


def stop(page, server):
    from common import check, equal
    page.click("#fresh")
    page.click("#options")
    page.fill("#length", "")
    page.click("#settings button")
    say(page, "Tell me everything.")
    expect(page.locator(".message.assistant .text")).to_have_text(re.compile(".{20}", re.S), timeout=60000)
    equal(page.locator("#send").inner_text(), "Stop", "the button stops")
    page.click("#send")
    wait_for_answer(page)
    check("stopped" in page.locator(".message.assistant .note").first.inner_text(), "it says that it was stopped")
    metrics = server.wait_idle()
    check(metrics['sharpi_requests_finished_total{reason="cancelled"}'] >= 1, "the server stopped too")


def reasoning(page):
    """The marks of reasoning, as a stream would bring them."""
    from common import equal
    page.evaluate("""() => { const a = new Answer(); a.take({reasoning_content: "Let me see."});
                             a.take({content: "Yes.\\n\\n```\\ncode <i>\\n```\\nand `more`"}); a.draw(); }""")
    last = page.locator(".message.assistant").last
    equal(last.locator("details").get_attribute("open"), None, "reasoning is folded")
    equal(last.locator("summary").inner_text(), "Reasoning", "its title")
    equal(last.locator("pre code").inner_text(), "code <i>", "code")
    last.locator("summary").click()
    equal(last.locator("details div").inner_text(), "Let me see.", "it unfolds")


def looks(page, shot):
    from common import check
    page.click("#theme")
    first = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    second = page.evaluate("getComputedStyle(document.body).backgroundColor")
    check(first != second, "dark and light differ")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    shot("dark")
    page.set_viewport_size({"width": 360, "height": 640})
    check(page.evaluate("document.documentElement.scrollWidth <= 360"), "nothing sticks out on a phone")
    check(page.locator("#send").is_visible() and page.locator("#input").is_visible(), "usable on a phone")
    shot("phone")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--available", action="store_true")
    parser.add_argument("--screenshots")
    o = parser.parse_args()
    if o.available:
        return available()
    from common import Server, check, equal, finish
    with Server("--template", os.environ.get("SHARPI_TEST_TEMPLATE", "chatml")) as server, sync_playwright() as p:
        browser = launch(p)
        page = browser.new_page(viewport={"width": 1000, "height": 700}, color_scheme="light")
        problems, foreign = [], []
        page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: problems.append(str(e)))
        page.on("request", lambda r: foreign.append(r.url) if not r.url.startswith((server.url, "data:")) else None)

        def shot(name):
            if o.screenshots:
                page.screenshot(path=os.path.join(o.screenshots, name + ".png"))
        talk(page, server, shot)
        reasoning(page)
        looks(page, shot)
        page.set_viewport_size({"width": 1000, "height": 700})
        stop(page, server)
        equal(problems, [], "nothing in the console")
        equal(foreign, [], "nothing from elsewhere")
        browser.close()
        server.request("POST", "/v1/chat/completions", "{}")
        check(server.request("GET", "/health")[0] == 200, "healthy")
    finish()
    return 0


sys.exit(main())

"Chromium without a window, driven over the W3C WebDriver protocol by the standard library alone."
import base64, json, shutil, subprocess, time, urllib.error
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

SWITCHES = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"      # The protocol's name of an element's handle
SPACE, ENTER, DOWN, UP = " ", "\ue007", "\ue015", "\ue013"


def missing():
    "What is not installed, or nothing."
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    return " and ".join(name for name, there in (("chromium", chromium), ("chromedriver", shutil.which("chromedriver"))) if not there)


class Browser:
    "One window with an empty profile; downloads go to `folder`."
    def __init__(self, folder, width=1200, height=900):
        self.folder = Path(folder)
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        line = next(line for line in self.driver.stdout if "started successfully on port" in line)
        self.root, self.open_url = f"http://127.0.0.1:{line.split()[-1].rstrip('.')}/session", build_opener(ProxyHandler({})).open
        options = dict(binary=shutil.which("chromium") or shutil.which("google-chrome"), prefs={"download.default_directory": str(folder)},
                       args=[*SWITCHES, f"--user-data-dir={self.folder / '.profile'}", f"--window-size={width},{height}"])
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try: self.root += "/" + self._call("", capabilities=dict(alwaysMatch=wanted))["sessionId"]
        except BaseException:
            self.driver.terminate()
            raise
        self.devtools("Emulation.setFocusEmulationEnabled", enabled=True)      # a window that nobody sees has no keyboard

    def _call(self, path, method="POST", **body):
        data = json.dumps(body).encode() if method == "POST" else None
        request = Request(self.root + path, data, {"Content-Type": "application/json"}, method=method)
        try: return json.load(self.open_url(request, timeout=60))["value"]
        except urllib.error.HTTPError as error: raise RuntimeError(json.load(error)["value"]["message"]) from None

    def open(self, path):
        "Show a page of this machine; it takes keys once it has been drawn."
        self._call("/url", url=Path(path).absolute().as_uri())
        self._call("/execute/async", script="requestAnimationFrame(() => requestAnimationFrame(arguments[0]))", args=[])

    def run(self, script, *arguments):
        "What a script returns."
        return self._call("/execute/sync", script=script, args=arguments)

    def wait(self, condition, seconds=20):
        "Wait until an expression of the page is true."
        self.until(lambda: self.run(f"return {condition}"), seconds, condition)

    def until(self, true, seconds=20, what="it"):
        "Wait until a function of no arguments gives something true."
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"{what} has not come true in {seconds} s"
            time.sleep(.05)

    def find(self, css):
        "The first element of this selector."
        return self._call("/element", using="css selector", value=css)

    def click(self, css):
        "Click in the middle of an element, as a mouse does."
        self._call(f"/element/{self.find(css)[ELEMENT]}/click")

    def fill(self, css, text):
        "Replace what a field holds."
        self.run("arguments[0].focus(), arguments[0].select()", self.find(css))
        self.press(text + ENTER)

    def press(self, keys):
        "Press keys, one after the other, wherever the keyboard is."
        strokes = [dict(type=kind, value=key) for key in keys for kind in ("keyDown", "keyUp")]
        self._call("/actions", actions=[dict(type="key", id="keys", actions=strokes)])

    def drag(self, css, start, end):
        "Drag the mouse inside an element, from and to these shares of its width; the same share twice is a click."
        element = self.find(css)
        width = self.run("return arguments[0].scrollIntoView({block: 'center'}), arguments[0].clientWidth", element)
        move = lambda share: dict(type="pointerMove", origin=element, x=round((share - .5) * width), y=0, duration=50)
        steps = [move(start), dict(type="pointerDown", button=0), *([move(end)] if end != start else []), dict(type="pointerUp", button=0)]
        self._call("/actions", actions=[dict(type="pointer", id="mouse", parameters=dict(pointerType="mouse"), actions=steps)])

    def devtools(self, command, **parameters):
        "A command of the Chrome DevTools protocol."
        return self._call("/goog/cdp/execute", cmd=command, params=parameters)

    def look(self, width, dark=False, height=900):
        "Give the window a width in px and light or dark colours."
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.devtools("Emulation.setEmulatedMedia", features=[dict(name="prefers-color-scheme", value="dark" if dark else "light")])

    def screenshot(self, path):
        "Save what the window shows as PNG."
        Path(path).write_bytes(base64.b64decode(self._call("/screenshot", method="GET")))

    def errors(self):
        "Messages of the console above information since the last call."
        return [line["message"] for line in self._call("/se/log", type="browser") if line["level"] in ("SEVERE", "WARNING")]

    def close(self):
        "End the browser and its driver."
        try: self._call("", method="DELETE")
        finally:
            self.driver.terminate()
            self.driver.wait(10)

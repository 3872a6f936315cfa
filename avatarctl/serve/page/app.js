// The page: ask the server, show what it says. form.js is the new video, jobs.js the list, live.js plays what is not finished yet.

import { startForm } from "./form.js";
import { startJobs } from "./jobs.js";

export const $ = (name) => document.getElementById(name);

/** Ask the server; return what it answers, or throw an error with its words. */
export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server can't be reached. Is it still running?");
  }
  if (answer.status === 401) await login();
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const told = content.error || {};
    throw new Error([told.message || `The server answered ${answer.status}.`, told.hint].filter(Boolean).join("\n"));
  }
  return content;
}

/** Post an object of settings as JSON. */
export function post(path, content = {}, headers = {}) {
  return ask(path, { method: "POST", headers: { "Content-Type": "application/json", ...headers }, body: JSON.stringify(content) });
}

/** Say something to people who hear the page. */
export function say(text) {
  $("said").textContent = text;
}

/** Return a length of time as people write it: 1:05 or 1:02:05. */
export function clock(seconds) {
  const whole = Math.max(Math.round(seconds), 0);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n) => String(n).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** Return how long something takes: 3 s, or 1:05. */
export function span(seconds) {
  return seconds < 59.5 ? `${Math.max(Math.round(seconds), 1)} s` : clock(seconds);
}

/** Return a size as people write it. */
export function size(bytes) {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(1)} GB`;
  if (bytes >= 1e6) return `${(bytes / 1e6).toFixed(bytes >= 1e7 ? 0 : 1)} MB`;
  return `${Math.max(Math.round(bytes / 1e3), 1)} kB`;
}

let waiting = null;

/** Ask for the token; the page is loaded again once it is right. */
function login() {
  waiting ??= new Promise(() => {
    const dialog = $("login");
    $("login-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      const answer = await fetch("/login", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ token: $("token").value }),
      });
      if (answer.ok) location.reload();
      else $("login-error").textContent = "That is not this server's token. It was said where the server was started.";
    });
    dialog.showModal();
  });
  return waiting;
}

function startTheme() {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const show = () => { $("theme").textContent = dark() ? "Light" : "Dark"; $("theme").setAttribute("aria-label", `Use ${dark() ? "light" : "dark"} colours`); };
  try { root.dataset.theme = localStorage.getItem("theme") || ""; } catch { /* private windows may have none */ }
  if (!root.dataset.theme) delete root.dataset.theme;
  $("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* it lasts as long as the page */ }
    show();
  });
  show();
}

async function start() {
  startTheme();
  const about = await ask("/about");
  $("about").textContent = `version ${about.version}, jobs in ${about.folder} on ${about.host}`;
  const models = (await ask("/v1/models")).data;
  const missing = models.filter((model) => !model.ready);
  if (missing.length) {
    $("banner").hidden = false;
    $("banner").textContent = models.some((model) => model.ready)
      ? "The embedded avatar works here at once: it knows drawn faces, such as the sample. For photographs, fetch the weights (about 25 GB) in a terminal with: avatarctl fetch"
      : `No preset can be used yet: ${missing[0].lacks}`;
  }
  startForm(models, about);
  startJobs(about);
}

start().catch((error) => { $("server").textContent = error.message; });

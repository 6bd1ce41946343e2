// A chat with a model: form → the gateway's own stream → the page. The token and the chat stay in this window: the
// token in a variable, the chat in sessionStorage. Whatever a model says is put in as text, never as HTML.
"use strict";

const form = document.getElementById("playground");
const at = (id) => document.getElementById(id);
const KEY = `berth-playground-${form?.dataset.user}`;
const RENEW_BEFORE_S = 60;
const TOKEN_ENDED = ["token_expired", "token_revoked", "token_unknown"];

let token = null; // {text, until}
let running = null; // the AbortController of the answer that comes
let talk = { system: "", messages: [] };

function restore() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
    if (Array.isArray(kept?.messages)) talk = kept;
  } catch {
    sessionStorage.removeItem(KEY);
  }
  at("system").value = talk.system ?? "";
  for (const message of talk.messages) show(message.role, message.content);
}

function keep() {
  talk.system = at("system").value;
  try {
    sessionStorage.setItem(KEY, JSON.stringify(talk));
  } catch {
    say("The browser's storage is full: this chat is lost when you leave the page.");
  }
}

// One message; what comes back takes more text.
function show(role, text, who) {
  const item = document.createElement("li");
  item.className = role;
  const name = document.createElement("small");
  name.textContent = who ?? (role === "user" ? "You" : "Model");
  const words = document.createElement("span");
  words.textContent = text;
  item.append(name, words);
  at("talk").append(item);
  item.scrollIntoView({ block: "nearest" });
  return words;
}

const say = (text) => { if (at("status").textContent !== text) at("status").textContent = text; };

async function freshToken() {
  if (token && Date.now() < token.until) return token.text;
  const answer = await fetch(form.dataset.tokenUrl, {
    method: "POST",
    headers: { "X-CSRFToken": form.elements.csrfmiddlewaretoken.value },
    body: new URLSearchParams({ project: form.dataset.project }),
    redirect: "error", // to the log-in page: the session has ended
  });
  if (!answer.ok) throw new Error("This page could not get a token: reload it, or log in again.");
  const given = await answer.json();
  token = { text: given.token, until: Date.now() + 1000 * (given.expires_in_s - RENEW_BEFORE_S) };
  return token.text;
}

function body(model) {
  const system = at("system").value.trim();
  const asked = { model, stream: true, messages: [...(system ? [{ role: "system", content: system }] : []), ...talk.messages] };
  if (at("temperature").value !== "") asked.temperature = Number(at("temperature").value);
  if (at("max-tokens").value !== "") asked.max_tokens = Number(at("max-tokens").value);
  return JSON.stringify(asked);
}

async function ask(model, signal, again = true) {
  const answer = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: { Authorization: `Bearer ${await freshToken()}`, "Content-Type": "application/json" },
    body: body(model),
    credentials: "omit",
    signal,
  });
  if (answer.ok) return answer;
  const error = (await answer.json().catch(() => ({}))).error ?? {};
  if (again && TOKEN_ENDED.includes(error.code)) {
    token = null;
    return ask(model, signal, false);
  }
  throw new Error(error.message ?? `The portal answered with status ${answer.status}.`);
}

// The stream's events: {comment} or {data}, as text.
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const whole = rest.split("\n");
    rest = whole.pop();
    for (const line of whole) {
      if (line.startsWith(": berth ")) yield { comment: JSON.parse(line.slice(8)) };
      else if (line.startsWith("data:") && line.slice(5).trim() !== "[DONE]") yield { data: JSON.parse(line.slice(5)) };
    }
  }
}

// The list of models was true when the page was loaded.
const STATES = { ready: "Ready", starting: "Starting", not_loaded: "Not loaded", unavailable: "Unavailable" };
function mark(name, residency) {
  const option = [...at("model").options].find((one) => one.value === name);
  if (option) option.textContent = `${name} · ${STATES[residency] ?? residency}`;
}

const span = (s) => (s < 120 ? `${Math.round(s)} s` : `${Math.round(s / 60)} min`);

// While it waits: place, time and reason; and models that would answer at once.
async function wait(said, model) {
  if (!said.reason) return;
  const place = said.position ? ` Queue position: ${said.position}.` : "";
  const eta = said.eta_s ? ` Estimated wait ≈ ${span(said.eta_s)}.` : "";
  at("why").textContent = `${said.reason}${place}${eta}`;
  if (at("waiting").hidden) say(at("why").textContent); // once: the numbers change all the time
  at("waiting").hidden = false;
  const here = running;
  const answer = await fetch(form.dataset.modelsUrl, { headers: { Accept: "application/json" } });
  if (!answer.ok || running !== here || at("waiting").hidden) return;
  const ours = new Set([...at("model").options].map((option) => option.value));
  const all = (await answer.json()).results;
  all.forEach((one) => mark(one.name, one.phase.residency));
  const ready = all
    .filter((one) => one.phase.residency === "ready" && one.name !== model && ours.has(one.name))
    .map((one) => one.name);
  const shown = [...at("instead").children].map((button) => button.value);
  if (shown.join() === ready.slice(0, 1).join()) return; // a button that is about to be pressed stays
  at("instead").replaceChildren(...ready.slice(0, 1).map(alternative));
}

function alternative(name) {
  const button = document.createElement("button");
  button.type = "button";
  button.value = name;
  button.textContent = `Use ${name} instead: it is ready`;
  button.addEventListener("click", () => {
    running?.abort("instead");
    at("model").value = name;
    answerWith(name);
  });
  return button;
}

function waitsNoMore() {
  at("waiting").hidden = true;
  at("instead").replaceChildren();
}

async function answerWith(model) {
  const mine = (running = new AbortController());
  at("send").disabled = true;
  at("stop").hidden = false;
  waitsNoMore();
  say(`Request sent to ${model}.`);
  let words = null, text = "";
  try {
    for await (const event of events(await ask(model, mine.signal))) {
      if (event.comment) {
        wait(event.comment, model).catch(() => {}); // only an alternative is missing then
        continue;
      }
      if (event.data.error) throw new Error(event.data.error.message);
      const more = event.data.choices?.[0]?.delta?.content;
      if (!more) continue;
      waitsNoMore();
      if (!words) mark(model, "ready");
      words ??= show("assistant", "", model);
      text += more;
      words.append(more); // text, whatever is in it
    }
    say("The answer is complete.");
  } catch (error) {
    if (mine.signal.aborted) say("Stopped.");
    else { show("failed", error.message, "Error"); say("The request failed."); }
  }
  if (text) {
    talk.messages.push({ role: "assistant", content: text });
    keep();
  }
  if (running !== mine) return; // another model was asked instead
  running = null;
  waitsNoMore();
  at("send").disabled = false;
  at("stop").hidden = true;
}

function send() {
  const prompt = at("prompt").value.trim();
  if (!prompt || running) return;
  at("prompt").value = "";
  talk.messages.push({ role: "user", content: prompt });
  show("user", prompt);
  keep();
  answerWith(at("model").value);
}

if (form) {
  restore();
  form.addEventListener("submit", (event) => { event.preventDefault(); send(); });
  at("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  at("system").addEventListener("change", keep);
  at("stop").addEventListener("click", () => running?.abort("stop"));
  at("clear").addEventListener("click", () => {
    running?.abort("clear");
    talk.messages = [];
    at("talk").replaceChildren();
    keep();
  });
}

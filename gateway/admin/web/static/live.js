// Makes the page live: changes as they happen, and fresh numbers every five seconds. Without it the page works as well.
"use strict";

const log = document.getElementById("log");
const PAUSE = 5000;

function add(text) {
  const item = document.createElement("li");
  item.textContent = new Date().toLocaleTimeString() + " " + text;
  log.prepend(item);
  while (log.children.length > 100) log.lastChild.remove();
}

function words(change) {
  if (change.kind === "ModeChange")
    return `${change.service}/${change.method}: ${change.before} -> ${change.after} (${change.set_by})`;
  if (change.kind === "RollbackDone") return `rollback of ${change.subject} by ${change.who}: ${change.why}`;
  return `mapping loaded: ${change.added.length} methods added, ${change.removed.length} removed`;
}

async function refresh() {
  if (document.hidden || document.querySelector("main :is(input, select, button):focus")) return;
  const filled = [...document.querySelectorAll("main input")].some((each) => each.type !== "hidden" && each.value !== each.defaultValue);
  if (filled) return;
  const answer = await fetch(location.href);
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
  if (fresh) document.querySelector("main").replaceWith(fresh);
}

if (log) {
  log.replaceChildren();
  const events = new EventSource("/events");
  events.onmessage = (event) => {
    add(words(JSON.parse(event.data)));
    refresh();
  };
  setInterval(() => refresh().catch(() => {}), PAUSE);
}

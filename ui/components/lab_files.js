// Traces as files: saved as JSON, as a player without a network, as a GIF; read back from JSON.

import { download } from "./dom.js";
import { isTrace } from "./trace_check.js";

const MOST_BYTES = 4 * 2 ** 20;

export async function saved(kind, events) {
  if (kind === "json") { download(new Blob([JSON.stringify({ bgpo_trace: 1, events }, null, 1)], { type: "application/json" }), "denoising.json"); return; }
  const response = await fetch(kind === "gif" ? "/api/lab/gif" : "/api/lab/player", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ events }) });
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error || `The app answered with status ${response.status}.`);
  download(await response.blob(), kind === "gif" ? "denoising.gif" : "denoising.html");
}

/** The events in an exported file. Throws an Error whose message is a sentence. */
export async function shownFile(file) {
  if (file.size > MOST_BYTES) throw new Error(`${file.name} is larger than 4 MB, so it is no trace that was exported here.`);
  let value;
  try {
    value = JSON.parse(await file.text());
  } catch {
    throw new Error(`${file.name} is not JSON; choose a trace that was exported here as JSON.`);
  }
  const events = value?.events;
  if (!isTrace(events)) throw new Error(`${file.name} holds no trace; choose one that was exported here as JSON.`);
  return events;
}

// Opens the New run form with a run's config, to start from one of its checkpoints. The address says all of it.

import { get } from "./dom.js";
import { openArea } from "./live.js";

// which: a step, "newest" or "best"
// changes: knobs that are to be different, {job: "evaluate", examples: ""}
export async function openFork(run, which = "newest", changes = {}) {
  const { fork } = await get(`/api/runs/${run.id}`);
  const query = new URLSearchParams(fork);
  for (const [name, value] of Object.entries({ ...changes, start_from: `run:${run.id}@${which}` })) query.set(name, value);
  openForm(query);
}

export function openForm(query) {
  history.pushState(history.state, "", `?tab=new&${query}`);
  openArea("new");
}

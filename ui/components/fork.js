// Opens the New run form with a run's config, to start from one of its checkpoints. The address says all of it.

import { get } from "/assets/dom.js";
import { openArea } from "/assets/live.js";

// which: a step, "newest" or "best"
export async function openFork(run, which = "newest") {
  const { fork } = await get(`/api/runs/${run.id}`);
  const query = new URLSearchParams(fork);
  query.set("start_from", `run:${run.id}@${which}`);
  openForm(query);
}

export function openForm(query) {
  history.pushState(history.state, "", `?tab=new&${query}`);
  openArea("new");
}

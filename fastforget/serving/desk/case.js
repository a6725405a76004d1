// All requests, and one with what became of it.
const namesOf = one => listed(one.classes.map((number, place) => nameOf(number, one.class_names?.[place])));
const stateOf = one => el("span", {class: `state ${one.state}`}, t(`state_${one.state}`));
const overdue = one => one.state === "waiting" && daysUntil(one.deadline) < 0;

function allView(requests) {
  const rows = requests.toReversed().map(one => el("tr", {},
    el("th", {scope: "row"}, el("a", {href: `#/requests/${encodeURIComponent(one.name)}`}, one.name)),
    el("td", {class: "what"}, namesOf(one)),
    el("td", {}, stateOf(one)),
    el("td", {class: "wide"}, day(one.asked)),
    el("td", {class: overdue(one) ? "overdue" : null}, dueWords(one))));
  const head = [["request"], ["class"], ["state"], ["asked", "wide"], ["due"]].map(([key, kind = null]) =>
    el("th", {scope: "col", class: kind}, t(key)));
  return [
    el("h1", {tabindex: "-1"}, t("nav_requests")),
    el("div", {class: "buttons"}, button(t("nav_new"), () => { location.hash = "#/new"; }, "main")),
    requests.length
      ? el("table", {}, el("caption", {}, counted("requests", requests.length)), el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows))
      : el("p", {}, t("requests_none")),
    requests.length ? section("export-title", t("record"), el("p", {}, t("record_why")), exports()) : null,
  ];
}

function exports(name) {
  const get = async form => {
    try {
      const query = name === undefined ? "" : `?request=${encodeURIComponent(name)}`;
      const answer = await answerOf("see", `export/${form}${query}`);
      save(await answer.blob(), answer.headers.get("content-type"), `record${name === undefined ? "" : `-${name}`}.${form}`);
    } catch (error) {
      trouble(error);
    }
  };
  return el("div", {class: "buttons"}, ["html", "csv", "json"].map(form => button(t(`export_${form}`), () => get(form))));
}

async function keepProof(name) {
  try {
    const proof = await ask("see", `proofs/${encodeURIComponent(name)}`);
    save(JSON.stringify(proof, null, 2), "application/json", `promise-${name}.json`);
    say(proof.public_key ? t("promise_signed") : t("promise_unsigned"));
  } catch (error) {
    trouble(error);
  }
}

function caseView(one) {
  return [
    el("h1", {tabindex: "-1"}, t("case_title", {name: one.name})),
    el("p", {}, stateOf(one), ` – ${stateWords(one)}`),
    facts([
      [t("classes"), namesOf(one)], [t("asked_by"), one.asked_by], [t("asked"), moment(one.asked)],
      [t("due"), el("span", {class: overdue(one) ? "overdue" : null}, dueWords(one))],
    ]),
    section("steps-title", t("steps"), steps(one)),
    one.done ? section("evidence-title", t("evidence"), evidence(one)) : null,
    one.done ? section("undo-title", t("undo"), undoPart(one)) : null,
    section("keep-title", t("keep"), el("p", {}, t("keep_why")),
      el("div", {class: "buttons"}, button(t("promise"), () => keepProof(one.name), "main")),
      el("p", {}, t("record_why")), exports(one.name)),
  ];
}

function stateWords(one) {
  if (one.state === "refused") return `${t("refused_words")} ${reasonWords(one.reason)}`;
  if (one.state === "reverted") return t("reverted_words", {time: moment(one.reverted.time)});
  return t(`${one.state}_words`, {time: one.done ? moment(one.done) : ""});
}

function steps(one) {
  const taken = [t("step_filed", {time: moment(one.asked)})];
  if (one.done) taken.push(t("step_done", {time: moment(one.done), version: one.version}));
  if (one.state === "waiting") taken.push(t("step_waiting"));
  if (one.state === "refused") taken.push([t("step_refused"), own(one.reason)]);
  if (one.reverted) {
    const by = one.reverted.asked_by || t("nobody_named");
    taken.push(t("step_reverted", {time: moment(one.reverted.time), version: one.reverted.version, by}));
  }
  return el("ol", {class: "steps"}, taken.map((step, place) =>
    el("li", {"aria-current": place === taken.length - 1 ? "step" : null}, step)));
}

function evidence(one) {
  const claims = one.claims.filter(claim => `claim_${claim}` in said.en).map(claim => t(`claim_${claim}`));
  const {findings, average_gap: gap, report, cannot_judge: open = [], metrics, ...others} = one.audit;
  const measured = findings !== undefined || Object.keys(others).length || report;
  const parts = [list(claims.length ? claims : [t("claim_none")])];
  if (one.outcome) parts.push(own(one.outcome));
  if (!measured) return [...parts, el("p", {}, t("audit_none"))];
  if (findings?.length) {
    parts.push(el("p", {class: "wrong"}, counted("audit_found", findings.length)), list(findings.map(findingOf)));
  } else if (findings) {
    parts.push(el("p", {}, t("audit_nothing")));
  }
  if (open.length) parts.push(el("p", {}, t("audit_open")), el("div", {lang: "en"}, list(open)));
  if (typeof gap === "number") parts.push(el("p", {}, t("audit_gap", {points: (100 * gap).toLocaleString(language, {maximumFractionDigits: 2})})));
  const plain = Object.entries(others).filter(([, value]) => ["string", "number", "boolean"].includes(typeof value));
  if (plain.length) parts.push(el("p", {}, t("audit_figures")), facts(plain.map(([name, value]) => [name, String(value)])));
  parts.push(el("p", {}, t("audit_proves")));
  const link = linkTo(report);
  if (link) parts.push(el("p", {}, el("a", {href: link, rel: "noopener noreferrer"}, t("report"))));
  return parts;
}

const findingOf = finding => {
  const key = `finding_${finding.kind?.replaceAll(/[ -]/g, "_")}`;
  return [key in said.en ? t(key) : String(finding.kind), own(String(finding.text))];
};

// Only an address of the web: whoever writes audits must not be able to run a script here.
function linkTo(report) {
  if (typeof report !== "string") return null;
  try {
    const address = new URL(report, location.href);
    return ["http:", "https:"].includes(address.protocol) ? address.href : null;
  } catch {
    return null;
  }
}

function undoPart(one) {
  if (one.state === "reverted") return [el("p", {}, t("undone")), el("p", {}, t("undone_again"))];
  const undo = one.undo;
  if (!undo?.possible) return [el("p", {}, t("undo_gone"))];
  const until = undo.until ? t("undo_possible_until", {time: moment(undo.until), days: counted("days", Math.max(0, daysUntil(undo.until)))}) : t("undo_possible");
  const why = field("why", t("undo_why"), t("undo_why_hint"), {maxlength: 2000, required: true}, "textarea");
  const sure = el("input", {type: "checkbox", id: "also"});
  const unsure = el("p", {id: "also-wrong", class: "wrong"});
  const also = undo.also.length
    ? [el("p", {}, t("undo_also")), list(undo.also), el("label", {class: "choice"}, sure, el("span", {}, t("undo_also_sure"))), unsure]
    : [];
  sure.setAttribute("aria-describedby", "also-wrong");
  const submit = async event => {
    event.preventDefault();
    unsure.textContent = undo.also.length && !sure.checked ? t("undo_also_needed") : "";
    if (unsure.textContent) sure.focus();
    why.problem(why.input.value.trim() ? "" : t("undo_why_needed"));
    if (unsure.textContent || !why.input.value.trim()) return;
    clearProblem();
    try {
      await ask("revert", `undo/${encodeURIComponent(one.name)}`, {asked_by: why.input.value.trim(), also: undo.also});
      say(t("undone_now", {name: one.name}));
      await open();
    } catch (error) {
      trouble(error);
    }
  };
  return [
    el("p", {}, until),
    el("details", {class: "undo"}, el("summary", {}, t("undo_open")), el("p", {}, t("undo_means")),
      el("form", {novalidate: true, onsubmit: submit}, why.parts, also,
        el("div", {class: "buttons"}, el("button", {class: "grave"}, t("undo_do"))))),
  ];
}

// A new request: what is to be forgotten and for whom, then what that means, then it is filed.
const SHOWN = 60; // classes at a time
let draft = {classes: new Set(), askedBy: "", ticket: ""};

const nameOf = (number, name) => name ?? t("class_number", {number});

function choiceOf(one, changed) {
  const input = el("input", {type: "checkbox", value: one.number, onchange: event => {
    event.target.checked ? draft.classes.add(one.number) : draft.classes.delete(one.number);
    changed();
  }});
  input.checked = draft.classes.has(one.number);
  const gone = one.forgotten ? ` (${t("forgotten_before")})` : "";
  return el("label", {class: "choice"}, input, el("span", {}, nameOf(one.number, one.name) + gone));
}

function chooser(desk) {
  const search = el("input", {id: "search", type: "search", autocomplete: "off"});
  const found = el("p", {class: "hint", role: "status"});
  const chosen = el("p", {id: "chosen", role: "status"});
  const wrong = el("p", {id: "classes-wrong", class: "wrong"});
  const choices = el("div", {class: "choices", role: "group", "aria-label": t("classes"), tabindex: "0"});
  const said = () => {
    const names = desk.classes.filter(one => draft.classes.has(one.number)).map(one => nameOf(one.number, one.name));
    chosen.textContent = names.length ? t("chosen", {names: listed(names)}) : t("chosen_none");
    if (names.length) wrong.textContent = "";
  };
  const show = () => {
    const words = search.value.trim().toLocaleLowerCase(language);
    const fits = one => nameOf(one.number, one.name).toLocaleLowerCase(language).includes(words) || String(one.number) === words;
    const fitting = desk.classes.filter(fits);
    found.textContent = fitting.length > SHOWN ? t("found_more", {count: SHOWN, all: fitting.length}) : counted("found", fitting.length);
    choices.replaceChildren(...fitting.slice(0, SHOWN).map(one => choiceOf(one, said)));
  };
  search.addEventListener("input", show);
  show();
  said();
  return {
    part: el("fieldset", {"aria-describedby": "classes-wrong"}, el("legend", {}, t("classes")),
      el("label", {for: "search"}, t("search")), search, found, choices, chosen, wrong),
    problem() {
      wrong.textContent = t("classes_needed");
      (choices.querySelector("input") ?? search).focus();
    },
  };
}

function formView(desk) {
  if (!desk.classes.length) return [el("h1", {tabindex: "-1"}, t("new_title")), el("p", {}, t("no_codes"))];
  const classes = chooser(desk);
  const askedBy = field("asked_by", t("asked_by"), t("asked_by_hint"), {maxlength: 2000, required: true}, "textarea");
  const ticket = field("ticket", t("ticket"), t("ticket_hint"), {maxlength: 200, autocomplete: "off"});
  askedBy.input.value = draft.askedBy;
  ticket.input.value = draft.ticket;
  askedBy.input.addEventListener("input", () => { draft.askedBy = askedBy.input.value; });
  ticket.input.addEventListener("input", () => { draft.ticket = ticket.input.value; });
  const next = event => {
    event.preventDefault();
    draft.askedBy = askedBy.input.value.trim();
    draft.ticket = ticket.input.value.trim();
    askedBy.problem(draft.askedBy ? "" : t("asked_by_needed"));
    if (!draft.classes.size) classes.problem();
    else if (draft.askedBy) show("confirm", () => confirmView(desk));
  };
  return [
    el("h1", {tabindex: "-1"}, t("new_title")),
    el("p", {class: "quiet"}, t("step", {step: 1})),
    el("form", {novalidate: true, onsubmit: next}, classes.part, askedBy.parts, ticket.parts,
      el("div", {class: "buttons"}, el("button", {class: "main"}, t("next")))),
  ];
}

function undoWords(desk) {
  if (desk.undo === "keep") return t("undo_keep");
  return desk.undo === "never" ? t("undo_never") : t("undo_until", {date: moment(desk.undo_until)});
}

function confirmView(desk) {
  const chosen = desk.classes.filter(one => draft.classes.has(one.number));
  const names = listed(chosen.map(one => nameOf(one.number, one.name)));
  const date = day(new Date(Date.parse(desk.time) + 86400000 * desk.deadline).toISOString());
  const again = chosen.filter(one => one.forgotten).map(one => nameOf(one.number, one.name));
  return [
    el("h1", {tabindex: "-1"}, t("confirm_title")),
    el("p", {class: "quiet"}, t("step", {step: 2})),
    facts([[t("classes"), names], [t("asked_by"), draft.askedBy], [t("ticket"), draft.ticket]]),
    again.length ? el("p", {class: "wrong"}, t("confirm_again", {names: listed(again)})) : null,
    section("will", t("will"), list([t("will_change", {names}), t("will_others"), t("will_service"), t("will_record"),
      t("will_due", {date, days: desk.deadline})])),
    section("cannot", t("cannot"), list([t("cannot_inside"), t("cannot_elsewhere"), t("cannot_others"), t("cannot_identity")])),
    section("undo-title", t("undo"), el("p", {}, undoWords(desk)),
      desk.undo === "never" ? null : el("p", {}, t("undo_means"))),
    el("div", {class: "buttons"}, button(t("file"), event => file(event.target), "main"),
      button(t("change"), () => show("new", () => formView(desk)))),
  ];
}

async function file(pressed) {
  pressed.disabled = true;
  clearProblem();
  try {
    const body = {classes: [...draft.classes], asked_by: draft.askedBy, request: draft.ticket || null};
    const {name} = await ask("ask", "requests", body);
    draft = {classes: new Set(), askedBy: "", ticket: ""};
    say(t("filed", {name}));
    location.hash = `#/requests/${encodeURIComponent(name)}`;
  } catch (error) {
    pressed.disabled = false;
    trouble(error);
  }
}

// What the page says, in the language that was chosen.
const said = JSON.parse(document.getElementById("texts").textContent);
const kept = {
  get: key => { try { return localStorage.getItem(key); } catch { return null; } },
  set: (key, value) => { try { localStorage.setItem(key, value); } catch { /* then not for the next time */ } },
};
let language = [kept.get("language"), ...navigator.languages.map(one => one.slice(0, 2))].find(one => one in said) ?? "en";

function t(key, values = {}) {
  const text = said[language][key] ?? said.en[key];
  return text.replace(/\{(\w+)\}/g, (whole, name) => name in values ? String(values[name]) : whole);
}

// "key_one" for a single one, "key_many" otherwise.
const counted = (key, count, values = {}) => t(`${key}_${count === 1 ? "one" : "many"}`, {count, ...values});

const locale = () => navigator.languages.find(one => one.startsWith(language)) ?? language; // en-GB, say
const day = time => new Date(time).toLocaleDateString(locale(), {dateStyle: "medium"});
const moment = time => new Date(time).toLocaleString(locale(), {dateStyle: "long", timeStyle: "short"});
const listed = names => new Intl.ListFormat(language, {type: "conjunction"}).format(names);
const daysUntil = time => Math.ceil((new Date(time) - Date.now()) / 86400000);

function dueWords(one) {
  const date = day(one.deadline);
  if (one.state !== "waiting") return t("due_answered", {date});
  const days = daysUntil(one.deadline);
  return days < 0 ? t("due_missed", {date}) : counted("due_left", days, {date});
}

// Why the service did not do it, in plain words: its own are for whoever runs it.
const REASONS = [
  [/forgotten (already|earlier)/, "reason_already"],
  [/keeps an accuracy of/, "reason_accuracy"],
  [/no step (along|within|that)/, "reason_no_way"],
  [/must (all )?be known to the model/, "reason_unknown"],
  [/somebody else changed the weights/, "reason_changed"],
  [/old values are not kept/, "reason_no_undo"],
  [/`also` must name|was made meanwhile|must be carried out and not undone/, "reason_meanwhile"],
  [/is being made|did not end|were not over|was not over|another process/, "reason_busy"],
  [/is the name of a request|an edit was made under the name|carried out already|refused already/, "reason_name"],
  [/cls` must (lie|name)/, "reason_no_class"],
];
const reasonWords = text => t(REASONS.find(([pattern]) => pattern.test(text))?.[1] ?? "reason_other");

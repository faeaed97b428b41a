// The live island: one stream a page, the age of the figures, pause and resume.
// It turns each tick into text in [data-k], into a short list of attributes, and
// into a "ballast:tick" event for the other islands. It never writes markup.
window.ballast = (() => {
'use strict';
const $ = (s, r = document) => r.querySelector(s), $$ = (s, r = document) => [...r.querySelectorAll(s)];
const live = $('#live'), pill = $('[data-live]'), words = pill && $('[data-live-text]', pill), button = $('[data-pause]');
const attrs = new Set(['stroke-dasharray', 'stroke-width', 'width', 'height', 'x', 'y', 'x1', 'x2', 'y1', 'y2', 'cx', 'cy', 'r', 'd', 'value', 'max', 'datetime', 'aria-label', 'data-state']);
let state = live ? 'wait' : 'none'; // wait, on, lost, held, evicted
let at = +pill?.dataset.at || 0, skew = (+pill?.dataset.now || Date.now()) - Date.now();
const limit = +pill?.dataset.limit || 4000;
const past = +document.body.dataset.past || 0; // a page about the past: its clock stands still
const now = () => past || Date.now() + skew;

const span = ms => { const s = Math.max(0, Math.floor(ms / 1000)); return s < 60 ? s + ' s' : s < 3600 ? Math.floor(s / 60) + ' min' : s < 172800 ? Math.floor(s / 3600) + ' h' : Math.floor(s / 86400) + ' d'; };
const put = (el, t) => { if (el.textContent !== t) el.textContent = t; };

function paint() {
  if (!pill) return;
  const age = at ? now() - at : 0, stale = !at || age > limit;
  const head = { wait: 'Connecting', on: stale ? 'Stale' : 'Live', lost: 'Reconnecting', held: 'Paused', evicted: 'Paused here', none: stale ? 'Stale' : 'Data' }[state];
  put(words, at ? `${head} · ${span(age)} old` : state === 'on' ? 'No data yet' : head);
  pill.className = 'livepill' + (state === 'on' && !stale ? ' on' : state === 'held' || state === 'evicted' ? ' held' : state === 'none' && !stale ? '' : ' off');
  pill.title = at ? 'Figures measured at ' + new Date(at).toLocaleTimeString() : '';
  document.body.classList.toggle('stale', live !== null && (stale || state === 'lost'));
  for (const el of $$('[data-ends]')) { const left = +el.dataset.ends - now(); put(el, left > 0 ? span(left) + ' left' : 'about to end'); }
  for (const el of $$('time[data-ago]')) { const t = Date.parse(el.dateTime); if (t) put(el, span(now() - t) + ' ago'); }
}

// retry: htmx opens the stream once and does not try again when that fails.
let tries = 0, timer = 0;
function again() {
  clearTimeout(timer);
  timer = setTimeout(() => { if (state !== 'held' && state !== 'evicted') htmx.trigger(live, 'live:retry'); }, Math.min(30000, 500 * 2 ** tries++) * (.7 + Math.random() * .6));
}

function hold() {
  state = 'held';
  live._conn?.reader?.cancel();
  paint();
}
function resume() {
  state = 'wait'; tries = 0;
  htmx.trigger(live, 'live:retry');
  paint();
}
function toggle() {
  if (!live) return;
  state === 'held' || state === 'evicted' ? resume() : hold();
  mark();
}
function mark() {
  if (!button) return;
  const off = state === 'held' || state === 'evicted';
  button.hidden = false;
  button.setAttribute('aria-pressed', off);
  button.setAttribute('aria-label', off ? 'Resume live updates' : 'Pause live updates');
  $('path', button).setAttribute('d', off ? 'M6.5 4v12l9-6z' : 'M7.5 4.5v11M12.5 4.5v11');
}

if (live) {
  document.addEventListener('htmx:sse:before:connection', e => { if (state === 'held' || state === 'evicted') { e.detail.connection.cancelled = true; e.preventDefault(); } });
  document.addEventListener('htmx:sse:after:connection', e => { live._conn = e.detail.connection; state = 'on'; tries = 0; paint(); mark(); });
  document.addEventListener('htmx:sse:error', e => { if (e.detail.status === 401) location.reload(); else if (state === 'on' || state === 'wait') { state = 'lost'; paint(); } });
  document.addEventListener('htmx:sse:close', () => { if (state === 'on') { state = 'lost'; paint(); again(); } });
  for (const name of ['htmx:error', 'htmx:response:error']) document.addEventListener(name, e => {
    if (e.target !== live && e.detail?.ctx?.sourceElement !== live) return;
    if (e.detail?.ctx?.response?.status === 401) return location.reload();
    state = 'lost'; paint(); again();
  });
  live.addEventListener('evicted', () => { state = 'evicted'; paint(); mark(); });
  live.addEventListener('hello', e => {
    const m = JSON.parse(e.detail.data);
    skew = m.now - Date.now();
    if (m.build !== document.body.dataset.build) toast('This console has a new version.', 'Reload', () => location.reload());
  });
  live.addEventListener('tick', e => {
    const m = JSON.parse(e.detail.data);
    skew = m.now - Date.now();
    if (m.at) at = m.at;
    pend.push(m);
    if (pend.length === 1) requestAnimationFrame(flush);
  });
  button?.addEventListener('click', toggle);
  pill?.addEventListener('click', () => { if (state === 'evicted') resume(); });
  mark();
}

let pend = [];
function flush() {
  const all = pend; pend = [];
  for (const m of all) {
    for (const k in m.v) for (const el of $$(`[data-k="${CSS.escape(k)}"]`)) put(el, m.v[k]);
    for (const k in m.a) {
      const i = k.lastIndexOf(' '), el = document.getElementById(k.slice(0, i)), name = k.slice(i + 1);
      if (el && attrs.has(name) && el.getAttribute(name) !== m.a[k]) el.setAttribute(name, m.a[k]);
    }
    // What the page consists of has changed: the server draws it anew.
    const whole = $('[data-whole]');
    if (whole && m.d?.whole && m.d.whole !== whole.dataset.whole) {
      if (!whole.hasAttribute('data-soft') && !$('form.dirty, dialog[open]')) return location.reload();
      toast('This page has changed meanwhile.', 'Load it anew', () => location.reload());
    }
    document.dispatchEvent(new CustomEvent('ballast:tick', { detail: m }));
  }
  paint();
}

// What somebody has typed is not thrown away by loading anew.
document.addEventListener('input', e => { if (e.target.form?.method === 'post') e.target.form.classList.add('dirty'); });

function toast(text, act, run) {
  const box = $('#toasts'), el = document.createElement('div');
  if (!box || [...box.children].some(c => c.firstChild.textContent === text)) return;
  el.className = 'toast';
  const t = document.createElement('span'); t.textContent = text; el.append(t);
  if (act) { const b = document.createElement('button'); b.className = 'btn sm'; b.textContent = act; b.addEventListener('click', run); el.append(b); }
  box.append(el);
}

setInterval(paint, 1000);
paint();
return { $, $$, toggle, now, span, toast, state: () => state };
})();

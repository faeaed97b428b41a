// The chart island: takes the place of each drawing with a chart that has a
// cursor, zoom and live figures. All charts of a page share cursor and zoom and
// are fed by one request. Where it does not run, the server's drawing stays.
(() => {
'use strict';
if (typeof uPlot === 'undefined' || !window.ballast) return;
const { $, $$ } = ballast;
const SVG = 'http://www.w3.org/2000/svg';
const plots = new Set(); // of { u, fig, id, src, d }
let zoom = null;

// Custom properties with light-dark() do not resolve by getPropertyValue; a
// real element's colour does.
const probe = document.createElement('i');
probe.hidden = true;
document.body.append(probe);
let colours = {};
const css = v => colours[v] ||= (probe.style.color = `var(--${v})`, getComputedStyle(probe).color);
const recolour = () => { colours = {}; for (const p of plots) p.u.redraw(false); };
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', recolour);
new MutationObserver(recolour).observe(document.documentElement, { attributes: true, attributeFilter: ['data-theme'] });

// Formats, as the server writes them: three significant digits.
const scaled = (v, unit) => {
  const bytes = unit[0] === 'B', base = bytes ? 1024 : 1000, names = bytes ? ['', 'Ki', 'Mi', 'Gi', 'Ti'] : ['', 'k', 'M', 'G', 'T'];
  let i = 0;
  while (Math.abs(v) >= base * .9995 && i < 4) { v /= base; i++; }
  return [v, names[i], i];
};
const figure = (v, unit) => {
  if (v == null) return '–';
  const [x, name, i] = scaled(v, unit), a = Math.abs(x);
  const digits = a === Math.trunc(a) && !i ? 0 : a < .0995 ? 3 : a < .995 ? 2 : a < 9.95 && i ? 2 : a < 99.95 ? 1 : 0;
  return x.toFixed(digits) + name;
};
const axisFigure = (v, unit) => { const [x, name] = scaled(v, unit); return +x.toFixed(3) + name; };
// Ticks of bytes are round in the units that they are written in.
const byteSteps = Array.from({ length: 12 }, (_, i) => 1024 ** Math.floor(i / 3) * [1, 10, 100][i % 3]).flatMap(n => [n, 2 * n, 5 * n]).filter((n, i, all) => all.indexOf(n) === i).sort((a, b) => a - b);
const two = n => String(n).padStart(2, '0');
const utc = ms => new Date(ms);
const hm = ms => { const d = utc(ms); return two(d.getUTCHours()) + ':' + two(d.getUTCMinutes()); };
const hms = ms => hm(ms) + ':' + two(utc(ms).getUTCSeconds());
const day = ms => utc(ms).toLocaleDateString('en-GB', { day: 'numeric', month: 'short', timeZone: 'UTC' });

function swatch(l) {
  const s = document.createElementNS(SVG, 'svg'), p = document.createElementNS(SVG, 'path');
  s.setAttribute('viewBox', '0 0 12 4'); p.setAttribute('d', 'M0 2h12'); p.setAttribute('class', `ln ln-${l.color}${l.dash ? ' dash' : ''}`);
  s.append(p);
  return s;
}

// tip shows the figures under the cursor. A line without a point exactly there
// shows its nearest one before, as long as that is not a gap.
function tip(p) {
  let el, head, cells;
  const valueAt = (u, i, idx) => {
    const col = u.data[i + 1];
    for (let k = idx; k >= Math.max(0, idx - 8); k--) if (col[k] !== undefined) return col[k];
    return null;
  };
  return { hooks: {
    init: u => {
      el = document.createElement('div'); el.className = 'tip';
      head = document.createElement('time'); el.append(head);
      cells = p.d.lines.map(l => {
        const row = document.createElement('div'), b = document.createElement('b'), name = document.createElement('bdi');
        name.textContent = l.label; row.append(swatch(l), name, b); el.append(row);
        return b;
      });
      u.over.append(el);
    },
    setCursor: u => {
      const { idx, left } = u.cursor, own = u.over.matches(':hover');
      el.classList.toggle('on', own && idx != null && left >= 0);
      if (!own || idx == null || left < 0) return;
      head.textContent = hms(u.data[0][idx]) + ' UTC';
      cells.forEach((b, i) => { b.textContent = figure(valueAt(u, i, idx), p.d.unit); });
      const w = el.offsetWidth;
      el.style.transform = `translate(${left + 16 + w > u.over.clientWidth ? left - w - 14 : left + 14}px,6px)`;
    },
  } };
}

// A limit that the figures are far from would press them flat: it is named at
// the upper edge instead, as in the server's drawing.
const highest = d => d.high ??= d.lines.reduce((top, l) => l.v.reduce((t, v) => v > t ? v : t, top), 0);
const inSight = (d, l) => highest(d) >= l.value / 3;
const dashes = { warn: [4, 4], crit: [9, 3] };
// apart moves names apart to at least gap, between low and high.
function apart(names, gap, low, high) {
  names.sort((a, b) => a.y - b.y);
  for (const n of names) { n.y = Math.max(n.y, low); low = n.y + gap; }
  for (const n of names.toReversed()) { n.y = Math.min(n.y, high); high = n.y - gap; }
}

// marks draws changes and limits; ends writes the names at the lines' ends,
// so that nobody has to tell colours apart.
function marks(p) {
  return { hooks: { drawAxes: u => {
    const c = u.ctx, { left, top, width, height } = u.bbox, r = devicePixelRatio;
    c.save(); c.beginPath(); c.rect(left, top, width, height); c.clip();
    const named = [];
    for (const l of p.d.limits || []) {
      const near = inSight(p.d, l), y = u.valToPos(l.value, 'y', true), tone = l.tone || 'fg-3';
      if (near) {
        c.strokeStyle = css(tone); c.lineWidth = r; c.setLineDash((dashes[l.tone] || [2, 3]).map(n => n * r));
        c.beginPath(); c.moveTo(left, y); c.lineTo(left + width, y); c.stroke(); c.setLineDash([]);
      }
      named.push({ text: near ? l.name : '↑ ' + l.name, tone, y: near ? y - 7 * r : top + 7 * r });
    }
    apart(named, 12 * r, top + 7 * r, top + height - 6 * r);
    p.named = named;
    let free = left;
    for (const m of p.d.marks) {
      const x = u.valToPos(m.at, 'x', true);
      if (x < left || x > left + width) continue;
      c.strokeStyle = css('accent'); c.lineWidth = r; c.globalAlpha = .8;
      c.beginPath(); c.moveTo(x, top); c.lineTo(x, top + height); c.stroke();
      c.globalAlpha = 1; c.font = `600 ${10.5 * r}px Inter, sans-serif`;
      const w = c.measureText(m.label).width + 10 * r, at = x + w > left + width ? x - w : x;
      if (at < free) continue;
      free = at + w + 2 * r;
      c.fillStyle = css('accent-bg'); c.beginPath(); c.roundRect(at, top, w, 16 * r, at < x ? [4 * r, 0, 0, 4 * r] : [0, 4 * r, 4 * r, 0]); c.fill();
      c.fillStyle = '#fff'; c.textBaseline = 'middle'; c.textAlign = 'left'; c.fillText(m.label, at + 5 * r, top + 8.5 * r);
    }
    c.restore();
  } } };
}
const clip = s => [...s].length > 14 ? [...s].slice(0, 13).join('') + '…' : s;
function ends(p) {
  return { hooks: { draw: u => {
    const c = u.ctx, r = devicePixelRatio, { left, top, width, height } = u.bbox, at = [];
    p.d.lines.forEach((l, i) => {
      if (l.dash) return;
      const v = l.v.at(-1);
      if (v != null) at.push({ l, y: Math.max(top + 5 * r, Math.min(top + height - 4 * r, u.valToPos(v, 'y', true))) });
    });
    apart(at, 12 * r, top + 5 * r, top + height - 3 * r);
    c.save(); c.font = `560 ${10.5 * r}px Inter, sans-serif`; c.textBaseline = 'middle'; c.textAlign = 'left';
    for (const { l, y } of at) { c.fillStyle = css(l.color); c.fillText(clip(l.label), left + width + 6 * r, y); }
    // Over the lines, on a halo: the names of the limits.
    c.font = `${10.5 * r}px Inter, sans-serif`; c.lineJoin = 'round';
    for (const { text, tone, y } of p.named || []) {
      c.strokeStyle = css('surface'); c.lineWidth = 3 * r; c.strokeText(text, left + 5 * r, y, width - 8 * r);
      c.fillStyle = css(tone); c.fillText(text, left + 5 * r, y, width - 8 * r);
    }
    c.restore();
  } } };
}

// join puts lines with their own times on one axis; what only another line has
// a point at is undefined, which uPlot draws through, and null is a gap.
const table = d => d.lines.length ? uPlot.join(d.lines.map(l => [l.t, l.v])) : [[]];

function make(fig, id, src, d) {
  const host = $('.plot', fig), p = { fig, id, src, d, live: /(^|[?&])range=/.test(src) };
  const font = '10.5px Inter, system-ui, sans-serif';
  host.replaceChildren();
  host.setAttribute('hx-morph-skip', '');
  const u = p.u = new uPlot({
    width: host.clientWidth, height: host.clientHeight, ms: 1, padding: [8, 92, 0, 0], legend: { show: false }, tzDate: ts => uPlot.tzDate(new Date(ts), 'Etc/UTC'),
    cursor: { sync: { key: 'ballast', setSeries: false }, drag: { x: true, y: false, uni: 20 }, points: { size: 7, width: 2, stroke: (u, i) => css(p.d.lines[i - 1].color), fill: () => css('surface') } },
    scales: {
      x: { time: true, range: () => zoom || [p.d.from, p.d.to] },
      y: { range: (u, lo, hi) => { let top = hi || 0; for (const l of p.d.limits || []) if (inSight(p.d, l)) top = Math.max(top, l.value * 1.05); return [0, top ? top * 1.08 : 1]; } },
    },
    axes: [
      { stroke: () => css('fg-3'), font, grid: { show: false }, ticks: { show: false }, border: { show: true, stroke: () => css('line'), width: 1 }, size: 24, gap: 6, space: 66,
        incrs: [1, 2, 5, 10, 15, 30, 60, 120, 180, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800].map(s => s * 1000),
        values: (u, s, a, sp, inc) => s.map(v => inc >= 864e5 || inc >= 36e5 && v % 864e5 === 0 ? day(v) : inc < 6e4 ? hms(v) : hm(v)) },
      { stroke: () => css('fg-3'), font, grid: { stroke: () => css('grid'), width: 1 }, ticks: { show: false }, size: 44, gap: 6, space: 34,
        incrs: /^B/.test(d.unit) ? byteSteps : undefined, values: (u, s) => s.map(v => axisFigure(v, p.d.unit)) },
    ],
    series: [{}, ...d.lines.map(l => ({
      label: l.label, stroke: () => css(l.color), width: l.color === 'c-p99' ? 1.8 : 1.5, alpha: l.dash ? .65 : 1, dash: l.dash ? [4, 3] : undefined,
      points: { show: false }, spanGaps: false, paths: l.steps ? uPlot.paths.stepped({ align: 1 }) : undefined,
    }))],
    plugins: [tip(p), marks(p), ends(p)],
    hooks: { setSelect: [u => {
      if (u.select.width > 4) { zoom = [u.posToVal(u.select.left, 'x'), u.posToVal(u.select.left + u.select.width, 'x')]; redraw(); }
      u.setSelect({ width: 0, height: 0 }, false);
    }] },
  }, table(d), host);
  u.over.addEventListener('dblclick', () => { zoom = null; redraw(); });
  u.over.setAttribute('role', 'img');
  u.over.setAttribute('aria-label', fig.dataset.summary || '');
  p.size = new ResizeObserver(() => u.setSize({ width: host.clientWidth, height: host.clientHeight }));
  p.size.observe(host);
  fig.plot = p;
  plots.add(p);
}

const redraw = () => { for (const p of plots) p.u.setScale('x', zoom ? { min: zoom[0], max: zoom[1] } : { min: p.d.from, max: p.d.to }); };

// same: the chart still has the lines that it was made for. A consumer that
// begins to be sampled, or a target that is added, makes other lines.
const same = (p, d) => d.lines.length === p.d.lines.length && d.lines.every((l, i) => l.label === p.d.lines[i].label);

// merge replaces what came anew and drops what has left the window.
function merge(p, d) {
  d.lines.forEach((l, i) => {
    if (l.steps) return; // always whole
    const old = p.d.lines[i], first = l.t.length ? l.t[0] : Infinity;
    let a = 0, b = old.t.length;
    while (a < b && old.t[a] < d.from) a++;
    while (b > a && old.t[b - 1] >= first) b--;
    l.t = old.t.slice(a, b).concat(l.t);
    l.v = old.v.slice(a, b).concat(l.v);
  });
  p.d = d;
  p.u.setData(table(d), false);
  p.u.setScale('x', zoom ? { min: zoom[0], max: zoom[1] } : { min: d.from, max: d.to });
}

// legend keeps the figures, which are text, in step with the lines.
function legend(fig, d) {
  const solid = d.lines.filter(l => !l.dash);
  $$('.chart-key', fig).forEach((key, i) => {
    const l = solid[i], name = $('bdi', key), now = $('[data-now]', key);
    if (!l) return;
    if (name.textContent !== l.label) name.textContent = l.label;
    if (now.textContent !== l.now) now.textContent = l.now;
  });
}

// ask fetches figures: all of them for a chart that is not drawn yet, else what
// is new. Charts with the same arguments are asked for together.
const rest = src => { const q = new URL(src, location.href).searchParams; q.delete('chart'); q.sort(); return q.toString(); };
// The newest points may still change: three of them are asked for again.
const since = p => Math.min(...p.d.lines.filter(l => !l.steps).map(l => l.t.at(-4) ?? p.d.from), p.d.to);
async function ask(figs) {
  const by = Map.groupBy(figs, f => rest(f.dataset.src) + (f.plot ? '&since' : ''));
  await Promise.all([...by.values()].map(async group => {
    const q = new URLSearchParams(rest(group[0].dataset.src));
    for (const id of new Set(group.map(f => f.dataset.chart))) q.append('chart', id);
    if (group[0].plot) q.set('since', Math.floor(Math.min(...group.map(f => since(f.plot)))));
    const res = await fetch('/api/series?' + q);
    if (!res.ok) return;
    const all = await res.json();
    for (const f of group) {
      const d = all[f.dataset.chart];
      if (!d) continue;
      if (f.plot && same(f.plot, d)) merge(f.plot, d);
      else if (f.plot) drop(f.plot); // drawn anew at the next tick, with all of its figures
      else if (d.lines.some(l => l.v.some(v => v != null))) make(f, f.dataset.chart, f.dataset.src, d);
      legend(f, d);
    }
  }));
}
function drop(p) { p.size.disconnect(); p.u.destroy(); plots.delete(p); p.fig.plot = null; }

async function scan() {
  for (const p of plots) if (!p.fig.isConnected) drop(p);
  const figs = $$('[data-chart]').filter(f => !f.plot && !f.asked);
  for (const f of figs) f.asked = true;
  if (!figs.length) return;
  await document.fonts.load('11px Inter').catch(() => {});
  await ask(figs).catch(() => {}); // the server's drawing stays
}

// Live: no oftener than a point can move, one request at a time.
let busy = false, asked = Date.now();
document.addEventListener('ballast:tick', async () => {
  const figs = $$('[data-chart]').filter(f => /(^|[?&])range=/.test(f.dataset.src));
  if (busy || document.hidden || !figs.length) return;
  const span = Math.min(...figs.map(f => f.plot ? f.plot.d.to - f.plot.d.from : 9e5));
  if (Date.now() - asked < Math.max(1900, span / 400)) return;
  busy = true; asked = Date.now();
  await ask(figs).catch(() => {});
  busy = false;
});
document.addEventListener('htmx:after:swap', scan);
scan();
})();

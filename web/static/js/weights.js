// The weights island: moving one slider spreads the rest over the unlocked rows
// of the same tier, in whole percents by largest remainder, so that every tier
// always sums to 100. The server checks the sum again.
(() => {
'use strict';
const { $, $$ } = window.ballast;

// spread shares rest out in proportion to now, in whole numbers.
function spread(now, rest) {
  const sum = now.reduce((a, b) => a + b, 0);
  const want = now.map(v => sum ? v * rest / sum : rest / now.length), out = want.map(Math.floor);
  let left = rest - out.reduce((a, b) => a + b, 0);
  want.map((v, i) => [v - out[i], i]).sort((a, b) => b[0] - a[0] || a[1] - b[1]).slice(0, left).forEach(([, i]) => out[i]++);
  return out;
}

function bind(form) {
  if (form.classList.contains('scripted')) return;
  form.classList.add('scripted');
  const rows = $$('[data-target]', form).map(el => ({
    el, tier: el.dataset.tier, range: $('input[type=range]', el), num: $('input[type=number]', el), state: $('select', el),
    change: $('[data-change]', el), lock: $('[data-lock]', el), seg: $$('[data-seg]', form).find(s => s.dataset.seg === el.dataset.target),
  }));
  const val = r => +r.num.value || 0, ready = r => r.state.value === 'READY', locked = r => r.lock.getAttribute('aria-pressed') === 'true';
  const ofTier = t => rows.filter(r => r.tier === t && ready(r));

  function paint() {
    const off = {}, sum = {}, count = {};
    for (const r of rows) {
      const v = ready(r) ? val(r) : 0, delta = v - +r.num.dataset.now, x = off[r.tier] || 0;
      r.range.disabled = r.num.readOnly = !ready(r);
      r.range.value = v; r.range.style.setProperty('--v', v);
      r.seg?.setAttribute('x', x); r.seg?.setAttribute('width', v);
      off[r.tier] = x + v;
      if (ready(r)) { sum[r.tier] = (sum[r.tier] || 0) + v; count[r.tier] = (count[r.tier] || 0) + 1; }
      r.change.textContent = delta ? (delta > 0 ? '+' : '−') + Math.abs(delta) : '—';
      r.change.classList.toggle('on', delta !== 0);
    }
    for (const out of $$('[data-sum]', form)) {
      const t = out.dataset.sum, n = sum[t] || 0;
      out.textContent = count[t] ? `Total ${n} %` : 'No target is READY';
      out.classList.toggle('bad', n !== 100);
    }
  }
  // set moves one row to want and lets the unlocked others make room.
  function set(row, want) {
    const others = ofTier(row.tier).filter(r => r !== row), free = others.filter(r => !locked(r));
    const fixed = others.filter(locked).reduce((a, r) => a + val(r), 0);
    want = Math.max(0, Math.min(100 - fixed, Math.round(want)));
    if (!free.length) want = Math.max(0, 100 - fixed);
    row.num.value = want;
    spread(free.map(val), 100 - fixed - want).forEach((v, i) => { free[i].num.value = v; });
    paint();
  }
  // refill makes the tier whole again after a target came or went.
  function refill(row) {
    if (!ready(row)) row.num.value = 0;
    const on = ofTier(row.tier), fixed = on.filter(locked).reduce((a, r) => a + val(r), 0), free = on.filter(r => !locked(r));
    if (free.length) spread(free.map(val), Math.max(0, 100 - fixed)).forEach((v, i) => { free[i].num.value = v; });
    paint();
  }
  for (const r of rows) {
    r.range.addEventListener('input', () => set(r, +r.range.value));
    r.num.addEventListener('change', () => set(r, val(r)));
    r.state.addEventListener('change', () => refill(r));
    r.lock.addEventListener('click', () => r.lock.setAttribute('aria-pressed', !locked(r)));
  }
  $('[data-even]', form)?.addEventListener('click', () => {
    form.classList.add('dirty');
    for (const t of new Set(rows.map(r => r.tier))) { const on = ofTier(t); spread(on.map(() => 1), 100).forEach((v, i) => { on[i].num.value = v; }); }
    paint();
  });
  $('[data-reset]', form)?.addEventListener('click', () => {
    form.classList.remove('dirty');
    for (const r of rows) { r.num.value = r.num.dataset.now; r.state.value = r.state.dataset.now; r.lock.setAttribute('aria-pressed', 'false'); }
    paint();
  });
  paint();
}
const bindAll = () => $$('[data-weights]').forEach(bind);
bindAll();
document.addEventListener('htmx:after:swap', bindAll);
})();

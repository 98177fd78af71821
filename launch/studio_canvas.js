// The canvas of launch/studio.py: paints with the pen of the page, sends strokes one after the other.
// A stroke waits here until the server has answered the one before, and is sent again if it has not.
const picture = new Image();
const WAITING = 'structured_obs_studio_waiting';  // strokes that no server has seen yet, kept over a reload
const here = { shown: 0, sent: 0, busy: 0, since: 0, waiting: [], stroke: null, over: null };
const pen = () => window.soPen || { tool: 'paint', pen: 1, colour: '#ffffff', gray: 1, deviation: 0 };
const canvas = () => element.querySelector('canvas');
const say = (text) => { element.querySelector('.so-time').textContent = text; };
const now = () => props.value || { height: 1, width: 1, cells: '', number: 0 };
const scale = () => Math.max(1, Math.round(640 / Math.max(now().height, now().width)));

function keep() { sessionStorage.setItem(WAITING, JSON.stringify(here.waiting)); }

function covers(diameter) {
  // The same pixels as strokes.covered.
  const shift = diameter % 2 ? 0 : 0.5, reach = Math.floor(diameter / 2) + 1, found = [];
  for (let r = -reach; r <= reach; r++)
    for (let c = -reach; c <= reach; c++)
      if ((r + shift) ** 2 + (c + shift) ** 2 <= (diameter / 2 - 0.1) ** 2) found.push([r, c]);
  return found;
}

function compose() {
  // The picture with its outlines, once for every answer; the pen moves above it.
  const { height, width, cells, mark } = now(), k = scale();
  here.base = Object.assign(document.createElement('canvas'), { width: width * k, height: height * k });
  const context = here.base.getContext('2d');
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, 0, 0, width * k, height * k);
  for (const [kind, colour] of [['1', '#ff2d55'], ['2', '#12b5cb']]) outline(context, k, cells, kind, colour);
  if (mark) {
    context.lineWidth = 3;
    context.strokeStyle = '#ff00c8';
    context.strokeRect(mark[1] * k, mark[0] * k, k, k);
  }
}

function draw() {
  const { height, width } = now(), k = scale(), board = canvas();
  if (!board || !here.base) return;
  if (board.width !== width * k || board.height !== height * k) {
    board.width = width * k;
    board.height = height * k;
    board.style.maxWidth = `calc(60vh * ${width / height})`;
  }
  const context = board.getContext('2d');
  context.drawImage(here.base, 0, 0);
  for (const stroke of [...here.waiting, ...(here.stroke ? [here.stroke] : [])]) fill(context, k, stroke);
  if (!here.over) return;
  const size = pen().tool === 'correlate' ? 1 : pen().pen, shift = size % 2 ? 0.5 : 0;
  context.lineWidth = 1.5;
  context.strokeStyle = '#888';
  context.beginPath();
  context.arc((here.over[1] + shift) * k, (here.over[0] + shift) * k, size * k / 2, 0, 2 * Math.PI);
  context.stroke();
}

function outline(context, k, cells, kind, colour) {
  const { height, width } = now(), is = (r, c) => r >= 0 && c >= 0 && r < height && c < width && cells[r * width + c] === kind;
  context.beginPath();
  for (let i = cells.indexOf(kind); i >= 0; i = cells.indexOf(kind, i + 1)) {
    const r = Math.floor(i / width), c = i % width, x = c * k, y = r * k;
    if (!is(r - 1, c)) { context.moveTo(x, y); context.lineTo(x + k, y); }
    if (!is(r + 1, c)) { context.moveTo(x, y + k); context.lineTo(x + k, y + k); }
    if (!is(r, c - 1)) { context.moveTo(x, y); context.lineTo(x, y + k); }
    if (!is(r, c + 1)) { context.moveTo(x + k, y); context.lineTo(x + k, y + k); }
  }
  for (const [width_, style] of [[4, '#fff'], [2, colour]]) {
    context.lineWidth = width_;
    context.strokeStyle = style;
    context.stroke();
  }
}

function fill(context, k, stroke) {
  const level = Math.round((Number(stroke.gray) + 1) * 127.5), channels = now().channels;
  context.fillStyle = stroke.tool === 'hide' ? '#12b5cb80' : stroke.tool === 'erase' ? '#80808080'
    : channels === 3 ? stroke.colour : `rgb(${level},${level},${level})`;
  const disc = covers(stroke.pen), last = stroke.points.length - 1;
  stroke.points.forEach(([row, column], i) => {
    const [r1, c1] = stroke.points[Math.min(i + 1, last)], steps = Math.max(Math.abs(r1 - row), Math.abs(c1 - column), 1);
    for (let s = 0; s < steps; s++) for (const [r, c] of disc)
      context.fillRect((Math.round(column + (c1 - column) * s / steps) + c) * k, (Math.round(row + (r1 - row) * s / steps) + r) * k, k, k);
  });
}

function place(event) {
  const box = canvas().getBoundingClientRect();
  return [Math.floor((event.clientY - box.top) / box.height * now().height),
    Math.floor((event.clientX - box.left) / box.width * now().width)];
}

function send(name, strokes) {
  here.sent = Math.max(here.sent, now().number) + 1;
  [here.busy, here.since] = [here.sent, performance.now()];
  const number = here.sent;
  clearTimeout(here.patience);
  here.patience = setTimeout(() => {
    if (here.busy !== number) return;
    here.busy = 0;
    say('The server has not answered yet. What you painted is kept here and sent again.');
    here.again = setTimeout(next, 3000);
  }, 20000);
  trigger(name, { number, strokes });
}

function next() {
  clearTimeout(here.again);
  if (here.busy || !here.waiting.length) return;
  here.flying = here.waiting.length;
  send('stroke', here.waiting);
}

element.addEventListener('pointerdown', (event) => {
  if (event.target !== canvas() || event.button) return;
  event.preventDefault();
  const at = place(event), { tool } = pen();
  if (tool === 'correlate') { trigger('look', { pixel: at }); return; }
  canvas().setPointerCapture(event.pointerId);
  here.stroke = { ...pen(), points: [at] };
  draw();
});

element.addEventListener('pointermove', (event) => {
  if (event.target !== canvas()) return;
  here.over = place(event);
  const stroke = here.stroke;
  if (stroke) {
    const last = stroke.points[stroke.points.length - 1];
    if ((last[0] !== here.over[0] || last[1] !== here.over[1]) && stroke.points.length < 4000) stroke.points.push(here.over);
    if (!here.busy && !here.waiting.length && performance.now() - here.since > 80) send('drag', [stroke]);
  }
  draw();
});

function up(event) {
  if (!here.stroke) return;
  here.waiting.push(here.stroke);
  keep();
  here.stroke = null;
  draw();
  next();
}
element.addEventListener('pointerup', up);
element.addEventListener('pointercancel', up);
element.addEventListener('pointerout', () => { here.over = null; draw(); });

document.addEventListener('keydown', (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.target.closest('input, textarea, [contenteditable]')) return;
  const key = event.key.toLowerCase(), again = key === 'y' || (key === 'z' && event.shiftKey);
  if (key !== 'z' && key !== 'y') return;
  event.preventDefault();
  trigger(again ? 'redo' : 'undo', {});
});

function answer() {
  const value = now(), arrived = performance.now();
  if (value.number && value.number < here.shown) return;  // overtaken by a later one
  here.shown = value.number || here.shown;
  if (here.busy && value.number === here.busy) {
    here.busy = 0;
    if (here.flying) { here.waiting.splice(0, here.flying); here.flying = 0; keep(); }
  }
  picture.onload = () => {
    compose();
    draw();
    if (!value.live) trigger('shown', {});
    if (value.number && value.milliseconds !== undefined && value.number === here.sent) {
      const total = Math.round(performance.now() - here.since);
      element.dataset.milliseconds = total;
      element.dataset.server = value.milliseconds;
      element.dataset.arrived = Math.round(arrived - here.since);
      say(`The rest followed in ${total} ms, ${Math.round(value.milliseconds)} ms of them to condition.`);
    }
    next();
  };
  picture.src = value.image;
}
try { here.waiting = JSON.parse(sessionStorage.getItem(WAITING)) || []; } catch { /* as if there were none */ }
watch('value', answer);
if (props.value) answer();

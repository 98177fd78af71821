"""Records of a benchmark as text: one block for each, and one table in Markdown of all."""

from typing import Any


def table(record: dict[str, Any]) -> str:
  """Returns one record as text."""
  if 'operation' in record:
    state = 'finite' if record['finite'] else 'NOT FINITE'
    failure = f'\n  {record["failure"]}' if 'failure' in record else ''
    done = f'{record["calls"]} gradients in {record["seconds"]:.1f} s'
    return f'{record["operation"]}: {done}, {state}{failure}'
  kinds = {
    'compilation': _compiled,
    'median': _median,
    'task': _measured,
    'accuracy': _errors,
    'growth': _growth,
    'training': _training,
  }
  lines = next(kinds[key](record) for key in kinds if key in record)
  for bar in record['bars']:
    state = 'met' if bar['met'] else 'MISSED'
    against, bound = (f' against {bar["peer"]}', 'at least') if bar['peer'] else ('', 'at most')
    reached = f'{bar["reached"]:.3g}, {bound} {bar["limit"]:g} wanted'
    lines.append(f'  bar: {bar["quantity"]}{against} {reached}: {state}')
  return '\n'.join(lines)


def _measured(record: dict[str, Any]) -> list[str]:
  lines = [record['task']]
  for row in record['candidates']:
    error = '' if row['error'] is None else f'  error {row["error"]:.1e}'
    memory = row['temporary_bytes'] / 1e6
    lines.append(
      f'  {row["name"]:36s} {row["median_ms"]:10.3f} ms  {row["ratio"]:8.2f}x'
      f'  compile {row["compile_s"]:.2f} s  temporary {memory:.2f} MB{error}'
    )
  return lines + [f'  not installed: {name}' for name in record['missing']]


def _median(record: dict[str, Any]) -> list[str]:
  line = '  {name:36s} {ratio:8.2f}x'
  return _rows(f'{record["median"]}, the median of the cases', record, line)


def _errors(record: dict[str, Any]) -> list[str]:
  line = '  differences of {difference:<8g} {nats:10.4f} nats  gradient {gradient:.1e}'
  return _rows(f'accuracy of float32, {record["accuracy"]}', record, line)


def _compiled(record: dict[str, Any]) -> list[str]:
  line = '  {name:36s} solve {solve:.2f} s  gradient {gradient:.2f} s'
  return _rows(f'compilation {record["compilation"]}', record, line)


def _growth(record: dict[str, Any]) -> list[str]:
  line = (
    '  {name:8s} {median_ms:10.3f} ms  {unit_ns:8.2f} ns per unit  {growth:6.2f}x{mark}'
    '  temporary {megabytes:.2f} MB'
  )
  marked = [row | {'mark': '  CLIFF' if row['cliff'] else ''} for row in record['rows']]
  return _rows(f'growth in {record["growth"]}', {'rows': marked}, line)


def _training(record: dict[str, Any]) -> list[str]:
  line = (
    '  {name:20s} step {step_ms:9.2f} ms  {ratio:6.2f}x  processors {step_processor_ms:.0f} ms'
    '  trace {trace_s:.2f} s  compile {compile_s:.2f} s  first step {first_step_s:.2f} s'
    '  temporary {megabytes:.0f} MB'
  )
  missing = [f'  not installed: {name}' for name in record['missing']]
  return _rows(f'training step of {record["training"]}', record, line) + missing


def _rows(title: str, record: dict[str, Any], line: str) -> list[str]:
  """Returns a title and one line per row, in a format of its fields.

  The field `megabytes` is that of temporary memory.
  """
  rows = [row | {'megabytes': row.get('temporary_bytes', 0) / 1e6} for row in record['rows']]
  return [title, *(line.format_map(row) for row in rows)]


def markdown(records: list[dict[str, Any]]) -> str:
  """Returns one table of all tasks, training steps and growths, as docs/benchmarks.md shows it."""
  lines = ['| task | ours | temporary | beside |', '|---|--:|--:|---|']
  for record in records:
    rows = record.get('candidates') or record.get('rows')
    name = record.get('task') or record.get('training')
    if name and rows:
      time = rows[0].get('median_ms', rows[0].get('step_ms'))
      beside = '; '.join(f'{row["ratio"]:.3g}x {row["name"]}' for row in rows[1:])
      lines.append(f'| {name} | {time:.3g} ms | {rows[0]["temporary_bytes"] / 1e6:.3g} MB | {beside} |')
    elif 'growth' in record:
      cliffs = ', '.join(row['name'] for row in record['rows'] if row['cliff'])
      worst = max(row['growth'] for row in record['rows'])
      told = f'cliffs at {cliffs}' if cliffs else 'no cliff'
      lines.append(f'| growth in {record["growth"]} | | | {told}; at most {worst:.2f}x per unit |')
    elif 'median' in record:
      beside = '; '.join(f'{row["ratio"]:.3g}x {row["name"]}' for row in record['rows'][1:])
      lines.append(f'| {record["median"]}, median of the cases | | | {beside} |')
  return '\n'.join(lines)

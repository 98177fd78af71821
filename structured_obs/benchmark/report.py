"""Records of a benchmark as text: one block for each, and one table in Markdown of all."""

from typing import Any


def table(record: dict[str, Any]) -> str:
  """One record as text."""
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
  rows = [f'  {row["name"]:36s} {row["ratio"]:8.2f}x' for row in record['rows']]
  return [f'{record["median"]}, the median of the cases', *rows]


def _errors(record: dict[str, Any]) -> list[str]:
  rows = [
    f'  differences of {row["difference"]:<8g} {row["nats"]:10.4f} nats  gradient {row["gradient"]:.1e}'
    for row in record['rows']
  ]
  return [f'accuracy of float32, {record["accuracy"]}', *rows]


def _compiled(record: dict[str, Any]) -> list[str]:
  rows = [
    f'  {row["name"]:36s} solve {row["solve"]:.2f} s  gradient {row["gradient"]:.2f} s'
    for row in record['rows']
  ]
  return [f'compilation {record["compilation"]}', *rows]


def _growth(record: dict[str, Any]) -> list[str]:
  rows = [
    f'  {row["name"]:8s} {row["median_ms"]:10.3f} ms  {row["unit_ns"]:8.2f} ns a unit  '
    f'{row["growth"]:6.2f}x{"  CLIFF" if row["cliff"] else ""}'
    f'  temporary {row["temporary_bytes"] / 1e6:.2f} MB'
    for row in record['rows']
  ]
  return [f'growth in {record["growth"]}', *rows]


def _training(record: dict[str, Any]) -> list[str]:
  rows = [
    f'  {row["name"]:20s} step {row["step_ms"]:9.2f} ms  {row["ratio"]:6.2f}x'
    f'  processors {row["step_processor_ms"]:.0f} ms'
    f'  trace {row["trace_s"]:.2f} s  compile {row["compile_s"]:.2f} s'
    f'  first step {row["first_step_s"]:.2f} s'
    f'  temporary {row["temporary_bytes"] / 1e6:.0f} MB'
    for row in record['rows']
  ]
  missing = [f'  not installed: {name}' for name in record['missing']]
  return [f'training step of {record["training"]}', *rows, *missing]


def markdown(records: list[dict[str, Any]]) -> str:
  """One table of all tasks, training steps and growths, as the README shows it."""
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
      lines.append(f'| growth in {record["growth"]} | | | {told}; at most {worst:.2f}x a unit |')
    elif 'median' in record:
      beside = '; '.join(f'{row["ratio"]:.3g}x {row["name"]}' for row in record['rows'][1:])
      lines.append(f'| {record["median"]}, median of the cases | | | {beside} |')
  return '\n'.join(lines)

// The numbers of a chart: where an axis is marked, how a value is written, what smoothing makes of it.

/** Return round numbers between two, about as many as wanted: 1, 2 or 5 times a power of ten apart. */
export function ticks(low, high, wanted) {
  if (!(high > low)) return [low];
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((times) => times * power >= rough * 0.999);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n += 1) {
    found.push(Number((n * step).toPrecision(12)));
  }
  return found;
}

/** Return the marks of a logarithmic axis: powers of ten, with their halves where those are few. */
export function decades(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power += 1) {
    for (const times of [1, 2, 5]) found.push(Number((times * 10 ** power).toPrecision(12)));
  }
  const inside = found.filter((value) => value >= low && value <= high);
  const round = inside.filter((value) => Number.isInteger(Number(Math.log10(value).toFixed(9))));
  if (inside.length < 2) return ticks(low, high, 4);
  return round.length > 2 ? round : inside;
}

/** Return a number as short as it can be told: 0.6931, 1,200, 3.1e-7. */
export function inWords(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2).replace(/\.?0+e/, "e");
  return value.toLocaleString("en", { maximumSignificantDigits: size >= 1e4 ? 7 : 4 });
}

/** Return the moving average of values: each older one counts `weight` times as much; no bias at the start. */
export function smoothed(values, weight) {
  let sum = 0;
  let whole = 0;
  return values.map((value) => {
    sum = sum * weight + value * (1 - weight);
    whole = whole * weight + (1 - weight);
    return sum / whole;
  });
}

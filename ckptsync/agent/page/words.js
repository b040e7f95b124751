// Numbers and times in words, as the command line writes them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function size(bytes) {
  let unit = 0;
  while (Math.round(bytes * 10) / 10 >= 1024 && unit < UNITS.length - 1) { bytes /= 1024; unit++; }
  return unit ? `${bytes.toFixed(1)} ${UNITS[unit]}` : `${Math.round(bytes)} B`;
}

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

export const whole = (number) => number.toString().replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");

export function clock(at_s) {
  const date = new Date(at_s * 1000);
  const time = date.toLocaleTimeString(undefined, { hour12: false });
  return date.toDateString() === new Date().toDateString() ? time : `${date.toLocaleDateString(undefined, { month: "short", day: "numeric" })} ${time}`;
}

export function figure(value) {
  if (value === null) return "nan";
  return value !== 0 && Math.abs(value) < 1e-4 ? value.toExponential(4).replace(/\.?0+e/, "e") : `${+value.toPrecision(6)}`;
}

export const metrics = (values) => Object.entries(values).map(([name, value]) => `${name}=${figure(value)}`).join(" ");

export function notes(row) {
  const stored = row.bytes_stored && row.bytes_stored !== row.bytes ? [`${size(row.bytes_stored)} stored`] : [];
  return [...(row.pinned ? ["pinned"] : []), ...row.aliases, ...stored, ...(row.problem ? [row.problem] : [])].join(", ");
}

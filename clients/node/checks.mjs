// Runs checks one by one and prints one line each.
export const { BASE_URL, API_KEY, MODEL } = process.env;

export async function run(checks) {
  let failed = 0;
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
      console.log(`passed ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}\n${error?.stack ?? error}`);
    }
  }
  process.exit(failed ? 1 : 0);
}

export function hold(condition, words = "does not hold") {
  if (!condition) throw new Error(words);
}

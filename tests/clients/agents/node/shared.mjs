// What the scripts of all clients share: where the gateway is, the questions, and the report.

export const URL = process.env.AGENT_URL;
export const V1 = `${URL}/v1`;
export const TOKEN = process.env.AGENT_TOKEN;
export const MODEL = process.env.AGENT_MODEL;

export const CHAT = 'scenario chat. What do you say?';
export const TOOLS = 'scenario tools. What is the weather in Paris?';
export const STRUCTURED = 'scenario structured. Describe Paris.';

/** The schema of a place, as the structured answers describe it. */
export const PLACE = {
  type: 'object',
  properties: {
    city: { type: 'string' },
    page: { type: 'string' },
    picture: { type: 'string' },
  },
  required: ['city', 'page', 'picture'],
  additionalProperties: false,
};

/** The parameters of the tool. */
export const CITY = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
  additionalProperties: false,
};

/** The weather in a city. */
export const weather = ({ city }) => `sunny in ${city}`;

/** Prints the results as one line of JSON, the last line of the script. */
export const report = (results) => console.log(JSON.stringify(results));

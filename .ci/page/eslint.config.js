// Rules for the page's JavaScript. Names and types are the type checker's (tsconfig.json): no-undef would only repeat it.
import js from "@eslint/js";

export default [
  js.configs.recommended,
  {
    languageOptions: { ecmaVersion: 2022, sourceType: "module" },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "no-undef": "off",
      "no-var": "error",
      "prefer-const": "error",
      eqeqeq: "error",
      curly: ["error", "multi-line"],
      "no-implicit-coercion": "error",
      "no-shadow": "error",
      "no-throw-literal": "error",
      "no-unused-private-class-members": "error",
      "object-shorthand": "error",
      "prefer-arrow-callback": "error",
      "require-await": "error",
      complexity: ["error", 12],
      "max-lines": ["error", 300],
      "max-lines-per-function": ["error", 50],
    },
  },
];

// Typed access to the page's elements by id.

/**
 * @template {Element} T
 * @param {string} id
 * @param {new () => T} type the class that the element must have
 * @returns {T} throws if the document holds no such element: document and scripts are then of different versions
 */
export function element(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no ${type.name} with the id ${id}`);
  return found;
}

/**
 * Like `element`, for an HTML element whose kind does not matter.
 * @param {string} id
 */
export const part = (id) => element(id, HTMLElement);

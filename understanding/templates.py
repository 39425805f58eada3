"""Chat templates: how a conversation is laid out as text, and which part of it is learned.

They are Jinja, because the exported folder carries its template and every serving tool renders it. Text between
`{% generation %}` marks is what the model says: labels follow from these marks alone (see `conversation`).
A message's content is a string that holds `<image>` itself, or the list of parts that serving tools send.

LLaVA tokenises what stands between two images as a text of its own. With SentencePiece such a text starts with `▁`,
which not every tokenizer puts behind a special token; `gap` is what brings it about: a space, or nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

IMAGE_TOKEN = "<image>"

# One image stands before the text and a newline, as LLaVA trains; several keep their places.
_CONTENT = r"""
{%- macro render(content) -%}
  {%- if content is string -%}
    {%- for text in content.split('<image>') -%}
      {{- ('' if loop.first else '<image>') ~ (gap if text and not loop.first) ~ text -}}
    {%- endfor -%}
  {%- else -%}
    {%- set images = pictures(content) | int -%}
    {%- if images == 1 -%}
      {{- '<image>' ~ gap ~ '\n' -}}
    {%- endif -%}
    {%- for part in content -%}
      {%- if part.type == 'text' -%}
        {{- part.text -}}
      {%- elif images > 1 -%}
        {{- '<image>' ~ gap ~ '\n' -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- macro pictures(content) -%}
  {%- if content is string -%}
    {{- content.count('<image>') -}}
  {%- else -%}
    {{- content | selectattr('type', 'in', ['image', 'image_url']) | list | length -}}
  {%- endif -%}
{%- endmacro -%}
"""

# The first message's system text, or the template's own; an empty one is left out.
_SYSTEM = r"""
{%- if messages[0].role == 'system' -%}
  {%- set system = render(messages[0].content) -%}
  {%- set turns = messages[1:] -%}
{%- else -%}
  {%- set system = "%s" -%}
  {%- set turns = messages -%}
{%- endif -%}
"""

_UNKNOWN = r"""
  {%- else -%}
    {{- raise_exception("expected a turn of user or assistant, found " ~ turn.role) -}}
  {%- endif -%}
"""

# The gap behind `<s>` makes the first word the token that it is at the start of a text; the space before an answer
# belongs to the answer's first token. An empty message ends with its colon, and an empty
# answer is not learned.
_VICUNA_V1 = (
    _CONTENT
    + _SYSTEM.replace(
        "%s",
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    )
    + r"""
{{- bos_token ~ gap if bos_token -}}
{{- system ~ ' ' if system -}}
{%- for turn in turns -%}
  {%- set text = render(turn.content) -%}
  {%- if turn.role == 'user' -%}
    {{- 'USER:' ~ (' ' ~ text ~ (gap if text.endswith('<image>')) ~ ' ' if text) -}}
  {%- elif turn.role == 'assistant' -%}
    {{- 'ASSISTANT:' -}}
    {%- if text -%}
      {%- generation -%}
        {{- ' ' ~ text ~ '</s>' -}}
      {%- endgeneration -%}
    {%- endif -%}
"""
    + _UNKNOWN
    + r"""
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- 'ASSISTANT:' -}}
{%- endif -%}
"""
)

# Blanks around a message are cut: the tokenizer would join them with the template's newlines.
_QWEN = (
    _CONTENT
    + _SYSTEM.replace("%s", "You are a helpful assistant.")
    + r"""
{%- if system -%}
  {{- '<|im_start|>system\n' ~ system ~ '<|im_end|>\n' -}}
{%- endif -%}
{%- for turn in turns -%}
  {%- set text = render(turn.content) | trim -%}
  {%- if turn.role == 'user' -%}
    {{- '<|im_start|>user\n' ~ text ~ '<|im_end|>\n' -}}
  {%- elif turn.role == 'assistant' -%}
    {{- '<|im_start|>assistant\n' -}}
    {%- if text -%}
      {%- generation -%}
        {{- text ~ '<|im_end|>' -}}
      {%- endgeneration -%}
    {%- else -%}
      {{- '<|im_end|>' -}}
    {%- endif -%}
    {{- '\n' -}}
"""
    + _UNKNOWN
    + r"""
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\n' -}}
{%- endif -%}
"""
)

_PLAIN = (
    _CONTENT
    + r"""
{%- set questions = messages | selectattr('role', 'equalto', 'user') | list -%}
{%- set answers = messages | selectattr('role', 'equalto', 'assistant') | list -%}
{%- if questions | length != 1 or answers | length > 1 -%}
  {{- raise_exception("the plain template takes one picture and one caption, found several turns") -}}
{%- endif -%}
{%- set images = pictures(questions[0].content) | int -%}
{%- if not images -%}
  {{- raise_exception("the plain template takes one picture and one caption, found no picture") -}}
{%- endif -%}
{{- bos_token -}}
{{- '<image>' * images -}}
{%- for answer in answers -%}
  {%- generation -%}
    {{- gap ~ render(answer.content) ~ '\n' -}}
  {%- endgeneration -%}
{%- endfor -%}
"""
)


@dataclass(frozen=True)
class Template:
    """A chat template.

    Args:
        jinja: the text of it. needs: tokens that the vocabulary must hold. end: the token that ends an answer and is
            learned with it; None where an answer ends with its line.
    """

    name: str
    jinja: str
    needs: tuple[str, ...] = ()
    end: str | None = None

    def text(self, gap: str) -> str:
        """The chat template that a model carries; `gap` as above."""
        return f"{{%- set gap = '{gap}' -%}}\n{self.jinja}"


def without_gap(chat_template: str) -> str:
    """A model's chat template, so that it writes the texts that LLaVA's own code writes; another's stays as it is."""
    return re.sub(r"^\{%- set gap = ' ' -%\}", "{%- set gap = '' -%}", chat_template)


def template_of(text: str | None) -> Template | None:
    """Ours of which `text` is; None for another's."""
    ours = (template for template in TEMPLATES.values() if text and text.endswith(template.jinja))
    return next(ours, None)


TEMPLATES = {
    template.name: template
    for template in (
        # LLaVA's pretraining: the picture, then its caption and a newline; the question is dropped.
        Template("plain", _PLAIN.strip()),
        # Vicuna 1.5 and LLaVA-1.5.
        Template("vicuna_v1", _VICUNA_V1.strip(), needs=("</s>",), end="</s>"),
        # ChatML, as Qwen2.5 and Qwen3 speak it.
        Template("qwen", _QWEN.strip(), needs=("<|im_start|>", "<|im_end|>"), end="<|im_end|>"),
    )
}

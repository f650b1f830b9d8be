"""Chat templates in the manner of well-known ones, and conversations, for the tests of chat."""

from hypothesis import strategies as st

from t5x_instruct.templates.chat import ChatTemplate

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# In the manner of Llama 3: a start token, header tokens, trimmed contents, no line break after a turn.
HEADERS = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '<|end|>\n\n' + message['content'] | trim + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"
)
# In the manner of Mistral: the assistant's turn opens with a space that the model writes itself.
BRACKETS = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}{% else %}{{ raise_exception('no ' + message['role'] + ' here') }}"
    "{% endif %}{% endfor %}"
)
# In the manner of Llama 3.2: a system turn that tells the day.
DATED = (
    "<|im_start|>system\nToday is {{ strftime_now('%d %b %Y') }}.{% if messages[0].role == 'system' %} "
    "{{- messages[0].content }}{% set messages = messages[1:] %}{% endif %}<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# In the manner of Qwen 3: an empty thought opens the last turn, and no turn before the last question.
THINKING = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and "
    "loop.index0 > ns.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m.content }}<|im_end|>{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Tools in the system turn, calls as JSON.
WITH_TOOLS = (
    "{% if tools %}<|im_start|>tools\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# In the manner of Mistral's later ones: tools stand beside the last question, wherever that is.
TOOLS_LAST = (
    "{% for m in messages %}{% set later = messages[loop.index:] | selectattr('role', 'equalto', 'user') | list %}"
    "{% if tools and m.role == 'user' and not later %}[TOOLS]{{ tools | tojson }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TEMPLATES = {
    "smollm2": ChatTemplate(SMOLLM2),
    "headers": ChatTemplate(HEADERS, bos_token="<s>"),
    "brackets": ChatTemplate(BRACKETS, bos_token="<s>", eos_token="</s>"),
    "dated": ChatTemplate(DATED),
    "thinking": ChatTemplate(THINKING),
    "tools": ChatTemplate(WITH_TOOLS),
}

CONTENT = st.one_of(
    st.text(max_size=20), st.sampled_from(["<|im_end|>", "im_end", " a\n", "\n", "\n\nb", "", "{{ x }}", "é 👍", "  "])
)


@st.composite
def conversations(draw, system=True, tools=True):
    """Messages: perhaps a system's, up to three questions with replies, some after a tool's turn, perhaps one more."""
    messages = []
    if system and draw(st.booleans()):
        messages.append({"role": "system", "content": draw(CONTENT)})
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(CONTENT)})
        messages.append({"role": "assistant", "content": draw(CONTENT)})
        if tools and draw(st.integers(0, 3)) == 0:
            messages.append({"role": "tool", "content": draw(CONTENT)})
            messages.append({"role": "assistant", "content": draw(CONTENT)})
    if draw(st.booleans()):
        messages.append({"role": "user", "content": draw(CONTENT)})
    return messages

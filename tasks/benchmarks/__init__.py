"""Public benchmarks, from the files of their authors; import the module of the one you want.

    t5x-instruct eval --gin.INITIAL_CHECKPOINT_PATH=... --gin.MIXTURE_OR_TASK_NAME=mmlu
        --gin.MIXTURE_OR_TASK_MODULE=tasks.benchmarks.mmlu
        --gin.MODULE_OPTIONS="{'tasks.benchmarks.mmlu.FOLDER': '/data/mmlu'}" --gin.DataSettings.splits="('test',)"

They have no split 'train': a mixture that trains on one of them is refused. Exemplars are part of the instruction, the
same for each question, as the benchmarks define them; the words around them are this project's own. An answer has a
line of its own, in exemplars as where it is asked for (`templates.chat.LineFormat`).
"""

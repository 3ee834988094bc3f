"""The words of decisions in some 40 languages, as one table.

approve   the first line is one of these, with nothing but courtesies behind it
reject    the first line begins with one of these; "=" in front: it is nothing else
subject   may stand before a decision word: "the order is", "die Bestellung ist"
object    may stand directly behind an approve-word: "this request", "den Antrag", "from my side"
doubt     anywhere in the new text, these keep an approval from being one
own       as doubt, but only beside a decision word of the same language, or where they begin a sentence: in another
          language the same letters are an everyday word
harmless  no doubt, although a doubt word stands in it
courtesy  may stand behind an approve-word
thanked   may stand behind a courtesy: "thanks for the work" is one, "approved for the work" is none
greeting  a line that is nothing but a greeting and perhaps a name is skipped

Words are whole words; those of `together` are written without spaces and are found inside of others. Whoever adds a
language adds a row, and a mail to tests/replies/.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Language:
    """One row. Alternatives are separated by "|"."""

    code: str
    approve: str
    reject: str
    subject: str = ""
    object: str = ""
    doubt: str = ""
    own: str = ""
    harmless: str = ""
    courtesy: str = ""
    thanked: str = ""
    greeting: str = ""
    together: bool = False  # words are not separated by spaces


LANGUAGES = (
    Language(
        "en",
        approve="approve|approved|approves|i approve|we approve|approved by me|i have approved|this is approved"
        "|it is approved|it's approved|request approved|approval granted|hereby approved|i hereby approve",
        reject="reject|rejected|rejects|rejecting|i reject|we reject|decline|declined|declines|i decline|deny|denied"
        "|i deny|disapprove|disapproved|i disapprove|refuse|refused|i refuse|we refuse|we decline|request rejected"
        "|request denied|this is rejected|it is rejected|is rejected|approval denied|approval refused|veto|vetoed"
        "|i must reject|i have to reject|sorry, rejected|i do not approve|i don't approve|we do not approve"
        "|i cannot approve|i can't approve|=not approved|=unapproved|=do not approve|=don't approve",
        subject="the request is|this request is|your request is|the order is|this order is|your order is"
        "|the purchase order is|the invoice is|order|the purchase is",
        object="this|it|the request|this request|your request|the order|this order|your order|the purchase order"
        "|this purchase order|the invoice|this invoice|the purchase|this purchase|from my side|from my end"
        "|on my side|by me",
        doubt="not|never|cannot|can't|didnt|isnt|nor|neither|nope|if|unless|but|except|excepting|excluding|only"
        "|pending|ignore|disregard|provided|providing|assuming|assume|assumes|conditional|conditionally|condition"
        "|conditions|contingent|subject to|until|wait|waiting|hold off|however|although|though|whether|maybe|perhaps"
        "|mistake|mistaken|mistakenly|accident|accidentally|erroneously|in error|cancel|cancelled|canceled|withdraw"
        "|withdrawn|withdrawing|revoke|revoked|retract|retracted|undo|stop|unsure|doubt|doubts|hesitant|almost"
        "|partially|partly|otherwise|depends|depending|as long as|so long as|on condition|as soon as|kidding|joking"
        "|sarcasm|tentative|tentatively|provisional|provisionally|preliminary|preliminarily|unfortunately"
        "|hypothetically|in principle|rejection|refusal|disapproval|approver|unapproved|non-approved|yet|nothing"
        "|none|nobody|hardly|barely|instead|oops|scratch that|changed my mind|on second thought|on second thoughts"
        "|second thoughts|reconsider|reservation|reservations|reluctantly|contrary|opposite|nearly|pre-approved"
        "|let me check|will approve|would have approved",
        own="once|no|till|dont|wont|cant|hold",
        harmless="no objection|no objections|no issue|no issues|no problem|no problems|no concern|no concerns"
        "|no comment|no comments|no worries|no changes|no change|no remarks|no questions|no doubt|no doubts"
        "|no further|no more|no need|order no|invoice no|po no|ref no|request no|without doubt"
        "|don't print this e-mail unless it's really necessary|don't print this email unless it's really necessary"
        "|do not print this e-mail unless it is really necessary"
        "|do not print this email unless it is really necessary|don't print this e-mail unless you really need to"
        "|don't print this email unless you really need to|may not be your working hours"
        "|do not feel obliged to reply|do not feel obligated to reply|don't feel obliged to reply"
        "|don't feel obligated to reply",
        courtesy="thanks|thank you|thank u|thankyou|thx|ty|tnx|tks|many thanks|thanks a lot|thanks a million"
        "|thanks so much|thanks very much|thank you so much|thank you very much|thanks again|thank you again"
        "|thanks in advance|thank you in advance|thanks everyone|thanks all|thanks team|thank you all|thank you team"
        "|thank you everyone|thanks folks|thanks guys|with thanks|much appreciated|appreciated|appreciate it|kudos"
        "|regards|best regards|kind regards|kindest regards|warm regards|warmest regards|with best regards"
        "|with kind regards|best|best wishes|all the best|many regards|cheers|sincerely|yours sincerely|yours|br|rgds"
        "|sincerely yours|respectfully|yours truly|take care|greetings|have a nice day|have a good day"
        "|have a great day|have a lovely day|have a good one|have a nice weekend|have a good weekend"
        "|have a great weekend|have a lovely weekend|have a nice evening|have a good evening|have a great evening"
        "|have a good week|have a great week|have a nice week|enjoy your day|enjoy your weekend|enjoy the weekend"
        "|enjoy|please go ahead|go ahead|please proceed|proceed|please carry on|carry on|great work|good work"
        "|nice work|great job|good job|nice job|well done|excellent work|all good|with pleasure|my pleasure|happily"
        "|gladly|good luck|hope this helps",
        thanked="for your help|for the help|for your work|for the work|for your hard work|for all your work"
        "|for all your hard work|for the hard work|for your great work|for the great work|for your good work"
        "|for your effort|for your efforts|for the effort|for your support|for the support|for your patience"
        "|for the update|for the info|for the information|for the reminder|for the heads up|for the quick reply"
        "|for asking|for checking|for your time|for the details|for sending|for sending this|for the request"
        "|for the summary|for preparing this|for putting this together|for following up|for your quick response"
        "|for the quick turnaround|for taking care of this|for handling this|for your cooperation|for letting me know"
        "|hello|hi|team|all|everyone|everybody|folks|guys",
        greeting="hi|hello|hey|dear|good morning|good afternoon|good evening|good day|greetings|hi there|hello there"
        "|morning|to whom it may concern|hi all|hello all|dear all|hi team|hello team|dear team|dear sir or madam"
        "|dear sir/madam|dear sirs|hi everyone|hello everyone|hey there|hiya",
    ),
    Language(
        "de",
        approve="genehmigt|genehmige|ich genehmige|wir genehmigen|genehmigen|freigegeben|freigeben|ich gebe frei"
        "|gebe ich frei|gebe frei|freigabe erteilt|genehmigung erteilt|bewilligt|ich bewillige|zugestimmt"
        "|ich stimme zu|stimme zu|hiermit genehmigt|hiermit genehmige ich|hiermit freigegeben|antrag genehmigt"
        "|genehmigt von mir|von mir genehmigt|ich gebe die bestellung frei|ich gebe diese bestellung frei"
        "|ich gebe den antrag frei|ich gebe die rechnung frei|ich gebe das frei|ich gebe dies frei|einverstanden"
        "|ich bin einverstanden|bin einverstanden",
        reject="abgelehnt|ablehnen|ablehnung|lehne ab|ich lehne ab|lehne ich ab|wir lehnen ab|zurückgewiesen"
        "|verweigert|abgewiesen|wird abgelehnt|ist abgelehnt|hiermit abgelehnt|antrag abgelehnt"
        "|genehmigung verweigert|freigabe verweigert|ich genehmige nicht|ich stimme nicht zu|=nicht genehmigt"
        "|=nicht freigegeben|=nicht bewilligt|=keine freigabe|=keine genehmigung|=freigabe nicht erteilt"
        "|ich lehne den antrag ab|ich lehne diesen antrag ab|ich lehne ihren antrag ab|ich lehne die bestellung ab"
        "|ich lehne diese bestellung ab|ich lehne die anfrage ab|ich lehne die rechnung ab|ich lehne das ab"
        "|ich lehne dies ab|hiermit lehne ich den antrag ab|hiermit lehne ich die bestellung ab"
        "|hiermit lehne ich die anfrage ab|hiermit lehne ich ab|ich bin nicht einverstanden|=nicht einverstanden",
        subject="der antrag ist|ihr antrag ist|dein antrag ist|antrag ist|die bestellung ist|diese bestellung ist"
        "|ihre bestellung ist|deine bestellung ist|bestellung|bestellung ist|die anfrage ist|ihre anfrage ist"
        "|anfrage|die rechnung ist|rechnung|ist",
        object="den antrag|diesen antrag|ihren antrag|deinen antrag|die bestellung|diese bestellung|ihre bestellung"
        "|die anfrage|diese anfrage|die rechnung|diese rechnung|das|dies|von mir|von meiner seite|meinerseits",
        doubt="ungenehmigt|nicht|kein|keine|keinen|keinem|keiner|keinerlei|niemals|wenn|falls|sofern|außer|aber"
        "|jedoch|nur|vorbehaltlich|vorbehalt|bedingung|bedingungen|vorausgesetzt|voraussetzung|solange|sobald|leider"
        "|warten|warte|stopp|widerrufe|widerruf|irrtum|irrtümlich|versehentlich|ignorieren|vorläufig|bedingt|erst"
        "|sonst|andernfalls|vielleicht|eventuell|unter umständen|teilweise|prinzipiell|grundsätzlich|ausgenommen"
        "|abgelehnte|bis auf|es sei denn|zurückgezogen|stornieren|storniert|nein|doch nicht|ausstehend|anstatt"
        "|stattdessen|rückruf|werde es",
        harmless="keine einwände|keine bedenken|keine fragen|keine anmerkungen|keine probleme|kein problem"
        "|keine änderungen|keine ergänzungen|keine kommentare|kein thema|keine ursache",
        courtesy="danke|vielen dank|besten dank|herzlichen dank|danke schön|dankeschön|danke sehr|danke vielmals"
        "|danke vorab|danke im voraus|vielen dank im voraus|tausend dank|lieben dank|merci|gruß|grüße|gruss|gruesse"
        "|viele grüße|beste grüße|liebe grüße|schöne grüße|freundliche grüße|freundlichen grüßen|besten grüßen"
        "|herzliche grüße|mit freundlichen grüßen|mit freundlichem gruß|mit besten grüßen|mit besten grüssen|mfg|lg"
        "|vg|bg|mit lieben grüßen|viele gruesse|beste gruesse|mit freundlichen gruessen|schönen tag|schönen tag noch"
        "|einen schönen tag|einen schönen tag noch|schönen abend|schönes wochenende|schönen feierabend|gute arbeit"
        "|gern|gerne|sehr gerne|hochachtungsvoll|schöne grüsse|grüsse|viele grüsse|weiter so|tschüss|ciao|servus",
        thanked="für die hilfe|für ihre hilfe|für deine hilfe|für die info|für die information|für die arbeit"
        "|für die mühe|für ihre mühe|für ihre arbeit|für deine arbeit|für die unterstützung|für ihre unterstützung"
        "|für die geduld|für die vorbereitung|für eure arbeit|an alle|allerseits",
        greeting="hallo|guten tag|guten morgen|guten abend|moin|servus|grüß gott|liebe|lieber|liebes|sehr geehrte"
        "|sehr geehrter|sehr geehrte damen und herren|hallo zusammen|hallo liebes team|liebe kollegen|hi zusammen"
        "|grüezi|mahlzeit|guten tag zusammen|liebe kolleginnen und kollegen",
    ),
    Language(
        "fr",
        approve="approuvé|approuvée|approuvés|approuvées|approuve|approuver|j'approuve|nous approuvons|validé"
        "|validée|je valide|autorisé|autorisée|j'autorise|demande approuvée|approbation accordée|bon pour accord"
        "|accordé|accordée|accepté|acceptée|j'accepte|je suis d'accord",
        reject="désapprouvé|désapprouvée|je désapprouve|rejeté|rejetée|rejette|rejeter|je rejette|refusé|refusée"
        "|refuser|je refuse|nous refusons|décliné|je décline|demande refusée|demande rejetée|je n'approuve pas"
        "|=non approuvé|=non approuvée|=pas approuvé|=non validé|=pas d'accord|je ne suis pas d'accord",
        subject="la demande est|cette demande est|votre demande est|ta demande est|la commande est"
        "|cette commande est|votre commande est|la facture est|c'est|commande|facture",
        object="la demande|cette demande|votre demande|ta demande|la commande|cette commande|votre commande"
        "|la facture|cette facture|cet achat|de mon côté|pour ma part|de ma part",
        doubt="jamais|sauf|seulement|uniquement|hormis|excepté|condition|conditions|conditionnel|sous réserve|réserve"
        "|à condition|pourvu|tant que|dès que|toutefois|cependant|néanmoins|pourtant|malheureusement|attendre"
        "|attendez|ignorer|ignorez|ignore|erreur|annuler|annulé|annulez|peut-être|peut être|partiellement|en attente"
        "|non|aucun|aucune|rejet|refus|sinon|provisoire|provisoirement|lorsque|à moins|hésite|hésitation",
        own="si|ne|quand|point|que si|une fois|pas|mais",
        harmless="pas de problème|aucun problème|aucune objection|pas d'objection|aucun commentaire|pas de souci"
        "|aucune remarque|sans erreur|aucun souci",
        courtesy="merci|merci beaucoup|merci bien|merci d'avance|merci à tous|un grand merci|mille mercis"
        "|merci pour tout|bien cordialement|cordialement|très cordialement|cdt|cdlt|bien à vous|bien à toi"
        "|bonne journée|bonne soirée|bon week-end|bon weekend|bonne continuation|bonne semaine|bonne réception"
        "|salutations|sincères salutations|salutations distinguées|meilleures salutations|amicalement|bon travail"
        "|beau travail|excellent travail|avec plaisir|sincèrement|respectueusement|à bientôt",
        thanked="pour votre travail|pour ton travail|pour votre aide|pour ton aide|pour l'info|pour le travail"
        "|pour votre patience|de votre aide|pour votre retour|à tous",
        greeting="bonjour|bonsoir|salut|cher|chère|chers|chères|bonjour à tous|bonjour à toutes et à tous|madame"
        "|monsieur|madame monsieur|coucou|bonjour madame|bonjour monsieur",
    ),
    Language(
        "es",
        approve="aprobado|aprobada|aprobados|aprobadas|apruebo|aprobar|aprueba|se aprueba|lo apruebo|la apruebo"
        "|yo apruebo|aprobamos|autorizado|autorizada|autorizo|se autoriza|solicitud aprobada|visto bueno"
        "|queda aprobado|queda aprobada|aprobación concedida|aceptado|aceptada|acepto|estoy de acuerdo",
        reject="rechazado|rechazada|rechazo|rechazar|rechaza|se rechaza|lo rechazo|la rechazo|rechazamos|denegado"
        "|denegada|deniego|declinado|declino|solicitud rechazada|solicitud denegada|desaprobado|desapruebo"
        "|no apruebo|no lo apruebo|=no aprobado|=no aprobada|=no autorizado|no estoy de acuerdo",
        subject="la solicitud está|la solicitud queda|su solicitud está|tu solicitud está|el pedido está"
        "|el pedido queda|su pedido está|la factura está|está|pedido|factura",
        object="la solicitud|esta solicitud|su solicitud|tu solicitud|el pedido|este pedido|la factura|esta factura"
        "|la compra|esta compra|por mi parte|de mi parte",
        doubt="nunca|jamás|pero|salvo|excepto|menos|solo|sólo|solamente|únicamente|siempre que|siempre y cuando"
        "|condición|condiciones|condicionado|condicionada|condicional|sujeto a|sujeta a|a condición|hasta|mientras"
        "|sin embargo|aunque|pendiente|ignorar|ignore|ignora|error|cancelar|cancelado|esperar|espera|espere|quizás"
        "|quizá|tal vez|parcialmente|desafortunadamente|lamentablemente|rechazos|a menos que|en cuanto|provisional"
        "|provisionalmente|ningún|ninguna|ninguno|tampoco|anular|anulado|dudo|dudas|reservas",
        own="si|una vez|cuando|no",
        harmless="no hay problema|ningún problema|sin problema|no hay objeciones|no tengo objeciones|sin dudas"
        "|no hay inconveniente|ninguna objeción|ningún inconveniente|sin ninguna duda|no tengo comentarios",
        courtesy="gracias|muchas gracias|mil gracias|gracias a todos|gracias de antemano|muchísimas gracias|saludos"
        "|un saludo|saludos cordiales|cordiales saludos|un cordial saludo|un abrazo|abrazos|atentamente|cordialmente"
        "|buen trabajo|excelente trabajo|buen día|que tenga un buen día|que tengas un buen día|buen fin de semana"
        "|feliz día|con gusto|muy amable|mis saludos|adelante|saludos a todos",
        thanked="por tu trabajo|por su trabajo|por el trabajo|por la ayuda|por tu ayuda|por su ayuda|por el esfuerzo"
        "|por la información|por todo|equipo|a todos",
        greeting="hola|buenos días|buenas tardes|buenas noches|buenas|buen día|estimado|estimada|estimados|estimadas"
        "|querido|querida|hola a todos|hola equipo",
    ),
    Language(
        "it",
        approve="approvato|approvata|approvati|approvate|approvo|approvare|approva|si approva|lo approvo|la approvo"
        "|approviamo|autorizzato|autorizzata|autorizzo|si autorizza|richiesta approvata|approvazione concessa"
        "|accettato|accettata|accetto|sono d'accordo",
        reject="disapprovato|disapprovo|respinto|respinta|respingo|respingere|rifiutato|rifiutata|rifiuto|rifiutare"
        "|rifiuta|rigettato|rigettata|rigetto|negato|negata|declinato|bocciato|bocciata|boccio|richiesta respinta"
        "|richiesta rifiutata|si respinge|si rifiuta|lo rifiuto|lo respingo|non approvo|=non approvato"
        "|=non approvata|=non autorizzato|non sono d'accordo",
        subject="la richiesta è|questa richiesta è|la sua richiesta è|la tua richiesta è|l'ordine è|la fattura è|è"
        "|ordine|fattura",
        object="la richiesta|questa richiesta|la sua richiesta|la tua richiesta|l'ordine|quest'ordine|questo ordine"
        "|la fattura|questa fattura|da parte mia|per quanto mi riguarda",
        doubt="tranne|eccetto|salvo|solo|soltanto|solamente|unicamente|a condizione|condizione|condizioni"
        "|condizionato|condizionata|a patto|purché|fino a|finché|tuttavia|però|sebbene|anche se|in attesa|ignorare"
        "|ignora|ignori|errore|annullare|annullato|aspettare|aspetta|attendere|forse|parzialmente|purtroppo"
        "|sfortunatamente|a meno che|qualora|appena|provvisorio|provvisoriamente|non|nessun|nessuna|nessuno|neanche"
        "|neppure|riserva|altrimenti|sospeso|dubbi",
        own="se|ma|quando|una volta|no|mai",
        harmless="nessun problema|nessuna obiezione|non c'è problema|non ci sono problemi|nessun commento"
        "|non ho obiezioni|senza dubbi|nessuna osservazione",
        courtesy="grazie|grazie mille|molte grazie|mille grazie|tante grazie|grazie a tutti|ti ringrazio|la ringrazio"
        "|vi ringrazio|grazie in anticipo|grazie ancora|saluti|cordiali saluti|distinti saluti|un saluto"
        "|un caro saluto|cordialmente|buon lavoro|ottimo lavoro|bel lavoro|buona giornata|buona serata|buon weekend"
        "|buon fine settimana|con piacere|volentieri|a presto|ciao|i migliori saluti|procedete pure|procedi pure",
        thanked="per il lavoro|per il tuo lavoro|per l'aiuto|per la collaborazione|per il supporto|per tutto|a tutti"
        "|per le informazioni",
        greeting="ciao|salve|buongiorno|buonasera|buon giorno|buon pomeriggio|gentile|egregio|egregia|caro|cara|cari"
        "|gentilissimo|gentilissima|spettabile|ciao a tutti|buongiorno a tutti",
    ),
    Language(
        "pt",
        approve="aprovado|aprovada|aprovados|aprovadas|aprovo|aprovar|aprova|eu aprovo|aprovamos|autorizado"
        "|autorizada|autorizo|solicitação aprovada|pedido aprovado|fica aprovado|aprovação concedida|aceito|aceita"
        "|aceite|concordo|estou de acordo",
        reject="rejeitado|rejeitada|rejeito|rejeitar|rejeita|recusado|recusada|recuso|recusar|recusa|reprovado"
        "|reprovada|reprovo|reprovar|negado|negada|nego|declinado|declino|indeferido|indeferida"
        "|solicitação rejeitada|pedido recusado|pedido rejeitado|desaprovado|desaprovo|não aprovo|=não aprovado"
        "|=não aprovada|=nao aprovado|=não autorizado|não concordo|não estou de acordo",
        subject="o pedido está|este pedido está|seu pedido está|a solicitação está|sua solicitação está"
        "|a encomenda está|a fatura está|está|fatura",
        object="o pedido|este pedido|esse pedido|seu pedido|a solicitação|esta solicitação|essa solicitação|a fatura"
        "|a compra|a encomenda|da minha parte|por mim",
        doubt="não|nao|nunca|jamais|exceto|salvo|apenas|somente|só|desde que|contanto|condição|condições|condicionado"
        "|condicionada|condicional|sujeito a|sujeita a|até|enquanto|porém|contudo|entretanto|embora|pendente|ignorar"
        "|ignore|erro|cancelar|cancelado|esperar|aguardar|aguarde|espere|talvez|parcialmente|infelizmente|rejeição"
        "|a menos que|assim que|provisório|provisoriamente|nenhum|nenhuma|senão|ressalva|ressalvas|dúvidas",
        own="se|mas|quando|nem|uma vez|caso",
        harmless="não há problema|nenhum problema|sem problemas|nenhuma objeção|não tenho objeções|sem ressalvas"
        "|sem dúvidas|até logo|até mais|até breve|até amanhã",
        courtesy="obrigado|obrigada|muito obrigado|muito obrigada|obrigado a todos|obrigada a todos|grato|grata"
        "|agradeço|agradecido|valeu|cumprimentos|melhores cumprimentos|com os melhores cumprimentos|atenciosamente"
        "|cordialmente|abraço|abraços|um abraço|att|saudações|bom trabalho|ótimo trabalho|excelente trabalho|desde já"
        "|bom dia|boa tarde|boa noite|tenha um bom dia|tenha um ótimo dia|bom fim de semana|bom final de semana"
        "|com prazer|até logo",
        thanked="pelo trabalho|pela ajuda|pelo apoio|pelo esforço|pela atenção|por tudo|equipe|equipa|a todos",
        greeting="olá|ola|oi|bom dia|boa tarde|boa noite|prezado|prezada|prezados|prezadas|caro|cara|caros|estimado"
        "|estimada|olá a todos|bom dia a todos",
    ),
    Language(
        "nl",
        approve="goedgekeurd|goedgekeurde|goedkeuren|keur goed|ik keur goed|ik keur het goed|ik keur dit goed"
        "|wij keuren goed|goedkeuring verleend|akkoord|ik ga akkoord|ga akkoord|aanvraag goedgekeurd"
        "|hierbij goedgekeurd|toegestaan|ik keur de aanvraag goed|ik keur deze aanvraag goed"
        "|ik keur uw aanvraag goed|ik keur de bestelling goed|ik keur deze bestelling goed|ik keur de factuur goed",
        reject="afgekeurd|afkeuren|afgewezen|afwijzen|wijs af|ik wijs af|ik wijs het af|ik wijs dit af|keur af"
        "|ik keur af|ik keur het af|geweigerd|weigeren|weiger|ik weiger|verworpen|aanvraag afgewezen|is afgewezen"
        "|afgewezen door mij|ik ga niet akkoord|ik keur niet goed|=niet goedgekeurd|=niet akkoord|=geen akkoord"
        "|ik wijs de aanvraag af|ik wijs deze aanvraag af|ik wijs uw aanvraag af|ik wijs de bestelling af"
        "|ik wijs deze bestelling af|ik keur de aanvraag af|ik keur de bestelling af",
        subject="de aanvraag is|deze aanvraag is|uw aanvraag is|je aanvraag is|de bestelling is|de factuur is"
        "|bestelling|is",
        object="van mijn kant|wat mij betreft|door mij",
        doubt="niet|geen|nooit|tenzij|indien|mits|behalve|uitgezonderd|alleen|slechts|voorwaarde|voorwaarden"
        "|voorwaardelijk|onder voorbehoud|voorbehoud|zolang|zodra|hoewel|wachten|wacht|negeer|negeren|vergissing"
        "|per ongeluk|misschien|gedeeltelijk|helaas|afwijzing|totdat|annuleren|geannuleerd|voorlopig|intrekken"
        "|ingetrokken|nee|in afwachting",
        own="als|maar|tot|pas|enkel|anders|echter",
        harmless="geen bezwaar|geen bezwaren|geen probleem|geen problemen|geen opmerkingen|geen vragen",
        courtesy="bedankt|dank|dank je|dank u|dank u wel|dank je wel|dankjewel|dankuwel|hartelijk dank|veel dank"
        "|alvast bedankt|bij voorbaat dank|met dank|groet|groeten|groetjes|vriendelijke groet|vriendelijke groeten"
        "|met vriendelijke groet|met vriendelijke groeten|met hartelijke groet|hartelijke groet|hartelijke groeten"
        "|mvg|gr|fijne dag|nog een fijne dag|prettige dag|fijn weekend|prettig weekend|fijne avond|goed werk"
        "|mooi werk|goed gedaan|graag|graag gedaan|succes|hoogachtend",
        thanked="voor de hulp|voor je hulp|voor uw hulp|voor het werk|voor je werk|voor de moeite|allemaal",
        greeting="hallo|hoi|beste|goedemorgen|goedemiddag|goedenavond|goedendag|dag|geachte|lieve|hallo allemaal"
        "|beste allemaal|geachte heer|geachte mevrouw|goede morgen|goede middag",
    ),
    Language(
        "sv",
        approve="godkänd|godkänt|godkända|godkänner|jag godkänner|vi godkänner|godkänn|godkännes|godkänns"
        "|härmed godkänt|beviljas|beviljad|beviljat|bifalles|tillstyrks|tillstyrkes",
        reject="avslagen|avslaget|avslag|avslås|avslår|jag avslår|avslå|avvisad|avvisat|avvisas|avvisar|jag avvisar"
        "|nekad|nekat|nekas|nekar|jag nekar|avböjer|jag avböjer|underkänd|underkänt|underkänner|avstyrks"
        "|jag godkänner inte|=ej godkänd|=ej godkänt|=inte godkänd|=inte godkänt|=godkänns ej|=godkänns inte",
        subject="ansökan är|begäran är|din ansökan är|din begäran är|beställningen är|fakturan är|är",
        object="ansökan|begäran|beställningen|fakturan|denna begäran|den här begäran|detta|det|från min sida|av mig",
        doubt="inte|ej|icke|aldrig|inget|inga|såvida|förutsatt|förutsättning|under förutsättning|villkor|villkorat"
        "|villkorligt|utom|förutom|endast|enbart|tills|dock|däremot|vänta|väntar|avvakta|ignorera|misstag|kanske"
        "|delvis|tyvärr|ångrar|återkallar|återkallas|annullera|preliminärt|annars|bortse|nej|med reservation|ifall",
        own="om|men|bara|när|så länge|ingen",
        harmless="inga invändningar|inga problem|inget problem|inga synpunkter|inga kommentarer|inga frågor",
        courtesy="tack|tack så mycket|stort tack|många tack|tack på förhand|tusen tack|tackar|tack för hjälpen"
        "|tack för det|tack allihopa|hälsningar|med vänlig hälsning|med vänliga hälsningar|vänliga hälsningar"
        "|vänlig hälsning|bästa hälsningar|mvh|hälsn|vh|ha en bra dag|ha en fin dag|trevlig helg|ha en trevlig helg"
        "|bra jobbat|bra jobb|snyggt jobbat|fint jobbat|varsågod|gärna|trevlig dag",
        thanked="för hjälpen|för arbetet|allihopa",
        greeting="hej|hejsan|god morgon|god dag|goddag|god kväll|tjena|hallå|bästa|kära|käre|hej alla|hej på dig|tja"
        "|hej allihopa|tjenare",
    ),
    Language(
        "no",
        approve="godkjent|godkjente|godkjenner|jeg godkjenner|vi godkjenner|godkjenn|godkjenne|godkjennes"
        "|herved godkjent|innvilget|innvilges|bifalles|eg godkjenner",
        reject="avvist|avvises|avviser|jeg avviser|avvis|avslått|avslås|avslår|jeg avslår|avslag|nektet|nektes|nekter"
        "|forkastet|underkjent|underkjennes|jeg godkjenner ikke|=ikke godkjent|=ikkje godkjent",
        subject="forespørselen er|søknaden er|bestillingen er|ordren er|fakturaen er|er",
        object="forespørselen|søknaden|bestillingen|ordren|fakturaen|denne forespørselen|dette|det|fra min side|av meg",
        doubt="ikke|ikkje|aldri|dersom|hvis|såfremt|forutsatt|forutsetning|under forutsetning|betinget|betingelse"
        "|vilkår|unntatt|bortsett|avvent|ignorer|feil|feilaktig|kanskje|delvis|dessverre|angrer|trekker|trukket"
        "|kansellert|kanseller|foreløpig|ellers|imidlertid|selv om|med forbehold|forbehold|hverken",
        own="om|men|kun|så lenge|når|med mindre|ingen|bare|vente|nei|vent",
        harmless="ingen innvendinger|ingen problemer|ikke noe problem|ingen kommentarer|ingen spørsmål",
        courtesy="takk|tusen takk|mange takk|takk skal du ha|hjertelig takk|takk for hjelpen|takk for det|takker"
        "|på forhånd takk|hilsen|med hilsen|med vennlig hilsen|vennlig hilsen|beste hilsen|med beste hilsen|mvh|vh"
        "|ha en fin dag|ha en god dag|god helg|ha en god helg|bra jobbet|bra jobba|godt jobbet|flott jobbet|gjerne"
        "|vær så god",
        thanked="for hjelpen|for jobben|alle sammen",
        greeting="hei|heisann|god morgen|god dag|goddag|god kveld|hallo|kjære|hei alle|hei alle sammen|morn|hei du",
    ),
    Language(
        "da",
        approve="godkendt|godkendte|godkender|jeg godkender|vi godkender|godkend|godkende|godkendes|hermed godkendt"
        "|bevilget|bevilges|bifaldes",
        reject="afvist|afvises|afviser|jeg afviser|afvis|afslået|afslås|afslår|jeg afslår|afslag|nægtet|nægtes|nægter"
        "|forkastet|underkendt|jeg godkender ikke|jeg kan ikke godkende|=ikke godkendt",
        subject="anmodningen er|din anmodning er|ansøgningen er|bestillingen er|ordren er|fakturaen er|er",
        object="anmodningen|ansøgningen|bestillingen|ordren|fakturaen|denne anmodning|dette|det|fra min side|af mig",
        doubt="ikke|aldrig|hvis|såfremt|forudsat|forudsætning|under forudsætning|betinget|betingelse|vilkår|undtagen"
        "|bortset|kun hvis|afvent|ignorer|ignorér|fejl|fejlagtigt|måske|delvist|desværre|fortryder|trækker|annulleret"
        "|annuller|foreløbig|ellers|nej|selvom|med forbehold|forbehold|hverken",
        own="om|men|kun|bare|så længe|når|med mindre|medmindre|ingen|dog|vente|vent",
        harmless="ingen indvendinger|ingen problemer|intet problem|ingen kommentarer|ingen bemærkninger"
        "|ingen spørgsmål",
        courtesy="tak|mange tak|tusind tak|tak skal du have|tak for hjælpen|tak for det|på forhånd tak|hilsen"
        "|med hilsen|med venlig hilsen|venlig hilsen|de bedste hilsner|bedste hilsner|venlige hilsner|mvh|vh|kh|dbh"
        "|hav en god dag|ha' en god dag|god dag|god weekend|ha' en god weekend|godt arbejde|flot arbejde|godt gået"
        "|gerne|velbekomme|fortsat god dag",
        thanked="for hjælpen|for arbejdet|alle sammen",
        greeting="hej|hejsa|god morgen|goddag|god dag|god aften|kære|hallo|hej alle|hej alle sammen|godmorgen|halløj",
    ),
    Language(
        "fi",
        approve="hyväksytty|hyväksyn|hyväksymme|hyväksytään|hyväksy|hyväksyttiin|hyväksyn tämän|hyväksyn pyynnön"
        "|hyväksytyt|puollan|puolletaan",
        reject="hylätty|hylkään|hylätään|hylkäämme|hylkää|hylkään pyynnön|evätty|evätään|torjuttu|kielletty"
        "|en hyväksy|ei hyväksytä|emme hyväksy|kieltäydyn|=ei hyväksytty|=hyväksymättä",
        subject="pyyntö on|pyyntösi on|hakemus on|tilaus on|lasku on|on",
        object="pyynnön|tämän pyynnön|hakemuksen|tilauksen|tämän tilauksen|laskun|tämän|puolestani",
        doubt="puuttuu|eivät|emme|ettei|jos|mikäli|ellei|ellen|paitsi|ainoastaan|kunhan|ehdolla|ehdollisesti|ehto"
        "|ehdot|edellyttäen|mutta|kuitenkin|vaikka|odota|odottakaa|odottaa|odottaen|vahingossa|virhe|virheellisesti"
        "|ehkä|osittain|valitettavasti|peruutan|peruutettu|peruuta|hylkäys|ennen kuin|poislukien|varauksin|muuten",
        own="en|kun|älä|et|vasta|no|sitten|ei|vain|peru",
        harmless="ei huomautettavaa|ei ongelmaa|ei ongelmia|ei kommentteja|ei lisättävää|ei kysyttävää",
        courtesy="kiitos|kiitoksia|kiitos paljon|paljon kiitoksia|suuri kiitos|suuret kiitokset|kiitos kaikille"
        "|kiitti|kiitos avusta|kiitos etukäteen|kiitän|terveisin|ystävällisin terveisin|parhain terveisin|terveiset|t"
        "|yt|hyvää päivää|hyvää päivänjatkoa|mukavaa päivää|mukavaa päivänjatkoa|hyvää viikonloppua"
        "|mukavaa viikonloppua|hyvää työtä|hienoa työtä|hyvin tehty|ole hyvä|olkaa hyvä|mielellään",
        greeting="hei|moi|terve|hyvää päivää|hyvää huomenta|hyvää iltaa|huomenta|hyvä|arvoisa|hei kaikki|moikka"
        "|heippa|moi kaikki|päivää",
    ),
    Language(
        "pl",
        approve="zatwierdzone|zatwierdzam|zatwierdzony|zatwierdzona|zatwierdzono|zatwierdzamy|zatwierdź|zatwierdzić"
        "|zaakceptowane|zaakceptowano|zaakceptowany|zaakceptowana|akceptuję|akceptujemy|akceptuj|aprobuję"
        "|wyrażam zgodę|zgoda udzielona|zatwierdzam wniosek|akceptuję wniosek|zgadzam się|zgadzamy się",
        reject="odrzucone|odrzucam|odrzucony|odrzucona|odrzucono|odrzucamy|odrzuć|odrzucić|odrzucam wniosek|odmawiam"
        "|odmowa|odmówiono|nie zatwierdzam|nie akceptuję|nie wyrażam zgody|niezatwierdzone|niezatwierdzony"
        "|niezatwierdzona|niezaakceptowane|niezaakceptowany|=nie zatwierdzone|=nie zatwierdzono|=brak zgody"
        "|=brak akceptacji|nie zgadzam się",
        subject="wniosek|wniosek jest|wniosek został|zamówienie|zamówienie jest|zamówienie zostało|faktura"
        "|faktura jest|prośba|jest",
        object="wniosek|ten wniosek|zamówienie|to zamówienie|fakturę|tę fakturę|prośbę|zakup|ten zakup|to"
        "|z mojej strony|przeze mnie",
        doubt="nie|nigdy|jeśli|jeżeli|jeśliby|gdy|gdyby|pod warunkiem|warunek|warunkowo|warunki|chyba że|oprócz"
        "|z wyjątkiem|wyjątkiem|tylko|wyłącznie|jedynie|dopóki|dopiero|jednak|lecz|chociaż|choć|czekać|czekaj"
        "|proszę czekać|poczekaj|pomyłka|pomyłkowo|omyłkowo|przez pomyłkę|może|częściowo|niestety|wycofuję|anuluj"
        "|anuluję|anulowane|odrzucenie|zignoruj|ignoruj|wstępnie|inaczej|bez zgody|zastrzeżeniem|zastrzeżenia|o ile",
        own="ale|czy|aż|brak",
        harmless="nie ma problemu|nie mam uwag|nie mam zastrzeżeń|bez zastrzeżeń|brak uwag|nie mam pytań",
        courtesy="dziękuję|dzięki|dziękuję bardzo|bardzo dziękuję|dziękujemy|wielkie dzięki|dziękuję z góry"
        "|z góry dziękuję|dziękuję za pomoc|pozdrawiam|pozdrowienia|serdecznie pozdrawiam|pozdrawiam serdecznie"
        "|z poważaniem|z pozdrowieniami|z wyrazami szacunku|łączę pozdrowienia|miłego dnia|życzę miłego dnia"
        "|dobrego dnia|miłego weekendu|udanego weekendu|dobra robota|świetna robota|dobra praca|pzdr|świetna praca"
        "|proszę bardzo|z przyjemnością",
        thanked="za pomoc|za pracę|za informację",
        greeting="cześć|witam|dzień dobry|dobry wieczór|szanowny|szanowna|szanowni państwo|szanowny panie"
        "|szanowna pani|drogi|droga|drodzy|hej|witam serdecznie|witaj|witam państwa|cześć wszystkim",
    ),
    Language(
        "cs",
        approve="schváleno|schvaluji|schválený|schválená|schválené|schválen|schválena|schvalujeme|schválit|schvaluju"
        "|schvaluji žádost|povoleno|povoluji|odsouhlaseno|odsouhlasuji|souhlasím|souhlasíme",
        reject="zamítnuto|zamítám|zamítnutý|zamítnutá|zamítnuté|zamítnut|zamítnuta|zamítáme|zamítnout|zamítnutí"
        "|odmítnuto|odmítám|odmítnout|odmítnutí|odmítnutá|odmítnutý|neschváleno|neschvaluji|neschválený|neschválená"
        "|nepovoleno|neschvalujeme|nesouhlasím",
        subject="žádost|žádost je|objednávka|objednávka je|faktura|faktura je|je",
        object="žádost|tuto žádost|objednávku|tuto objednávku|fakturu|požadavek|tento požadavek|nákup|to|z mé strany"
        "|za mě",
        doubt="nikdy|pokud|jestliže|jestli|kdyby|pouze|jenom|podmínka|podmínky|podmíněně|podmínkou|s podmínkou|kromě"
        "|vyjma|s výjimkou|dokud|avšak|ovšem|ačkoli|ačkoliv|čekat|počkejte|počkat|čekejte|omylem|omyl|chyba|možná"
        "|částečně|bohužel|ruším|zrušit|zrušeno|ignorujte|ignorovat|předběžně|jinak|výhradou|výhrady|nelze|není"
        "|nejsem|nechci|nemohu|nesmí|ještě ne|až po|stornovat|neplatí|nemám",
        own="ale|když|ne|až|však|jen",
        harmless="není problém|bez výhrad|nemám námitky|nemám námitek|nemám připomínky|nemám výhrady",
        courtesy="děkuji|děkuju|díky|moc děkuji|děkuji moc|mockrát děkuji|děkuji předem|předem děkuji|děkujeme"
        "|díky moc|děkuji za pomoc|s pozdravem|pozdrav|s pozdravy|s přátelským pozdravem|zdravím|s úctou|hezký den"
        "|přeji hezký den|přeji pěkný den|pěkný den|krásný den|hezký víkend|příjemný den|dobrá práce|skvělá práce"
        "|výborná práce|rád|ráda|s radostí",
        thanked="za pomoc|za práci|za informaci",
        greeting="ahoj|dobrý den|dobré ráno|dobré odpoledne|dobrý večer|vážený|vážená|vážení|milý|milá|nazdar|čau"
        "|zdravím|zdravím vás|vážený pane|vážená paní|ahoj všichni",
    ),
    Language(
        "sk",
        approve="schválené|schvaľujem|schválený|schválená|schvaľujeme|schváliť|súhlasím|povolené|povoľujem|odsúhlasené",
        reject="zamietnuté|zamietam|zamietnutý|zamietnutá|zamietame|zamietnuť|odmietnuté|odmietam|neschválené"
        "|neschvaľujem|nesúhlasím|nepovolené",
        subject="žiadosť|žiadosť je|objednávka|objednávka je|faktúra|faktúra je|je",
        object="žiadosť|túto žiadosť|objednávku|túto objednávku|faktúru|požiadavku|nákup|to|z mojej strany|za mňa",
        doubt="nikdy|pokiaľ|iba|podmienka|podmienky|podmienečne|okrem|s výnimkou|avšak|počkajte|čakať|omylom|chyba"
        "|možno|čiastočne|bohužiaľ|zrušiť|zrušené|predbežne|inak|výhradou|výhrady|nie|nemôžem|kým",
        own="ak|len|ale|keď|až",
        harmless="bez výhrad|nie je problém|nemám námietky",
        courtesy="ďakujem|vďaka|ďakujem pekne|ďakujem veľmi pekne|s pozdravom|pekný deň|prajem pekný deň|pekný víkend"
        "|dobrá práca|vopred ďakujem",
        greeting="ahoj|dobrý deň|dobré ráno|vážený|vážená|milý|milá|ahojte|zdravím",
    ),
    Language(
        "hu",
        approve="jóváhagyva|jóváhagyom|jóváhagyott|jóváhagyjuk|jóváhagy|jóváhagyni|engedélyezve|engedélyezem"
        "|engedélyezett|elfogadva|elfogadom|elfogadott|jóváhagyom a kérelmet|jóváhagyásra került",
        reject="elutasítva|elutasítom|elutasított|elutasítjuk|elutasítás|elutasít|elutasítani|megtagadva|megtagadom"
        "|visszautasítva|visszautasítom|nem hagyom jóvá|nem engedélyezem|nem fogadom el|=nincs jóváhagyva"
        "|=nem jóváhagyott",
        subject="a kérelem|kérelem|a kérés|a rendelés|a megrendelés|megrendelés|a számla|a kérelmet|a rendelést"
        "|a megrendelést|a számlát",
        object="a kérelmet|a kérést|a rendelést|a megrendelést|a számlát|a beszerzést|ezt|részemről",
        doubt="nincs|nincsen|soha|sose|hacsak|feltéve|feltétel|feltételek|feltétellel|feltételesen|amennyiben|kivéve"
        "|csak|csupán|kizárólag|amíg|ameddig|azonban|bár|ugyan|várjon|várj|várjatok|várni|tévedés|tévedésből"
        "|véletlenül|talán|esetleg|részben|sajnos|visszavonom|visszavonva|törlöm|törölni|előzetesen|különben"
        "|fenntartással|viszont|nem|hiba|mégsem",
        own="ha|de|majd|ne",
        harmless="nincs kifogásom|nem probléma|nincs probléma|nincs észrevételem|nincs kérdésem|nincs gond",
        courtesy="köszönöm|köszönjük|köszönöm szépen|köszi|köszönöm előre is|előre is köszönöm|nagyon köszönöm"
        "|köszönet|köszönöm a segítséget|köszönöm a munkát|üdvözlettel|tisztelettel|üdv|szívélyes üdvözlettel"
        "|barátsággal|szép napot|további szép napot|szép napot kívánok|jó hétvégét|szép hétvégét|jó munka|szép munka"
        "|szívesen|örömmel",
        greeting="szia|sziasztok|helló|hello|kedves|tisztelt|jó napot|jó reggelt|jó estét|üdvözlöm|jó napot kívánok"
        "|szevasz",
    ),
    Language(
        "ro",
        approve="aprobat|aprobată|aprobata|aprob|aprobăm|aproba|aprobate|aprobați|se aprobă|eu aprob|cerere aprobată"
        "|aprobarea acordată|autorizat|autorizez|de acord|sunt de acord|suntem de acord",
        reject="respins|respinsă|respinsa|resping|respingem|respinge|refuzat|refuzată|refuz|refuzăm|se respinge"
        "|cerere respinsă|neaprobat|neaprobată|dezaprobat|dezaprob|nu aprob|=nu se aprobă|=nu este aprobat"
        "|nu sunt de acord|nu suntem de acord",
        subject="cererea este|solicitarea este|comanda este|factura este|este",
        object="cererea|această cerere|solicitarea|comanda|această comandă|factura|achiziția|din partea mea",
        doubt="niciodată|dacă|daca|cu condiția|condiția|condiție|condiționat|condiții|decât|doar|numai|exceptând"
        "|cu excepția|excepția|până când|totuși|însă|deși|așteptați|așteaptă|aștept|greșeală|eroare|poate|parțial"
        "|din păcate|retrag|anulez|anulat|ignorați|ignora|provizoriu|altfel|rezerve|sub rezerva|respingere|nici"
        "|în afară|odată ce",
        own="nu|dar|până|când",
        harmless="nu am obiecții|nicio problemă|nu este nicio problemă|fără rezerve|nu am comentarii|nu am întrebări",
        courtesy="mulțumesc|multumesc|mulțumim|multumim|mulțumesc mult|mulțumesc frumos|vă mulțumesc|îți mulțumesc"
        "|mersi|mulțumesc anticipat|mulțumesc pentru ajutor|cu stimă|cu respect|cu considerație|salutări"
        "|toate cele bune|o zi bună|o zi bună în continuare|zi bună|weekend plăcut|un weekend plăcut|bună treabă"
        "|treabă bună|cu plăcere|cu drag|felicitări",
        thanked="pentru ajutor",
        greeting="bună|buna|bună ziua|buna ziua|bună dimineața|bună seara|salut|salutare|stimate|stimată|stimați"
        "|dragă|draga|dragi colegi|bună tuturor|salutări",
    ),
    Language(
        "ru",
        approve="одобрено|одобряю|одобрен|одобрена|одобряем|одобрить|утверждено|утверждаю|утвержден|утверждён"
        "|утверждена|утвердить|согласовано|согласую|согласован|согласована|согласовываю|разрешено|разрешаю"
        "|запрос одобрен|заявка одобрена|я одобряю|одобрено мной|согласен|согласна|согласны",
        reject="отклонено|отклоняю|отклонен|отклонён|отклонена|отклоняем|отклонить|отклонение|отказано|отказываю"
        "|отказ|отказать|отвергнуто|отвергаю|отвергнут|отказываюсь|запрос отклонен|заявка отклонена|не одобряю"
        "|не согласую|не утверждаю|=не одобрено|=не согласовано|=не утверждено|запрещено|запрещаю|я отклоняю"
        "|не согласен|не согласна",
        subject="заявка|запрос|заказ|счёт|счет|заявку|закупку|закупка",
        object="заявку|эту заявку|вашу заявку|запрос|этот запрос|заказ|этот заказ|счёт|счет|закупку|с моей стороны"
        "|мной|мною",
        doubt="не|нет|ли|никогда|ни|если|при условии|условие|условии|условия|условно|кроме|за исключением|исключением"
        "|только|лишь|пока|но|однако|хотя|подождите|ждать|ждите|подожди|ошибка|ошибочно|по ошибке|может быть|возможно"
        "|частично|к сожалению|отзываю|отменяю|отменить|отменено|отмена|игнорируйте|предварительно|иначе|с оговоркой"
        "|оговорками|нельзя|после того как|как только|без одобрения|ожидает|ожидании|неодобрено|несогласовано",
        harmless="не возражаю|нет возражений|нет проблем|нет замечаний|нет вопросов|без замечаний|не за что",
        courtesy="спасибо|большое спасибо|спасибо большое|благодарю|благодарим|спасибо всем|спасибо за работу"
        "|спасибо за помощь|заранее спасибо|спасибо заранее|с уважением|с наилучшими|с наилучшими пожеланиями"
        "|всего доброго|всего хорошего|хорошего дня|удачного дня|доброго дня|хороших выходных|отличная работа"
        "|хорошая работа|пожалуйста|с удовольствием",
        thanked="за работу|за помощь|за информацию",
        greeting="здравствуйте|привет|добрый день|доброе утро|добрый вечер|уважаемый|уважаемая|уважаемые|коллеги"
        "|дорогой|дорогая|приветствую|всем привет|уважаемые коллеги|добрый день всем|доброго дня|здравствуй",
    ),
    Language(
        "uk",
        approve="схвалено|схвалюю|схвалений|схвалена|схвалюємо|схвалити|затверджено|затверджую|затверджений|погоджено"
        "|погоджую|погоджена|погоджений|дозволено|дозволяю|запит схвалено|ухвалено",
        reject="відхилено|відхиляю|відхилений|відхилена|відхиляємо|відхилити|відмовлено|відмовляю|відмова|не схвалюю"
        "|не погоджую|не затверджую|=не схвалено|=не погоджено|=не затверджено|заборонено|запит відхилено",
        subject="заявка|запит|замовлення|рахунок|заявку|закупівлю",
        object="заявку|цю заявку|вашу заявку|запит|цей запит|замовлення|це замовлення|рахунок|закупівлю|з мого боку"
        "|мною",
        doubt="не|ні|ніколи|якщо|за умови|умова|умови|умовою|умовно|крім|окрім|за винятком|винятком|тільки|лише|поки"
        "|але|проте|однак|хоча|зачекайте|чекати|чекайте|помилка|помилково|можливо|частково|на жаль|відкликаю|скасовую"
        "|скасувати|скасовано|ігноруйте|попередньо|інакше|застереженням|немає|відхилення|після того як|щойно",
        harmless="не заперечую|немає заперечень|немає проблем|немає зауважень|немає питань|без зауважень",
        courtesy="дякую|щиро дякую|дуже дякую|дякуємо|велике спасибі|спасибі|дякую за роботу|дякую за допомогу"
        "|заздалегідь дякую|з повагою|з найкращими побажаннями|гарного дня|хорошого дня|всього найкращого"
        "|гарних вихідних|чудова робота|гарна робота|будь ласка|із задоволенням",
        thanked="за роботу|за допомогу",
        greeting="вітаю|привіт|добрий день|доброго дня|добрий ранок|доброго ранку|добрий вечір|шановний|шановна"
        "|шановні|шановні колеги|вітання|всім привіт",
    ),
    Language(
        "bg",
        approve="одобрено|одобрявам|одобрен|одобрена|одобряваме|съгласувано|утвърдено|утвърждавам|разрешено|съгласен"
        "|съгласна|съгласен съм|съгласна съм",
        reject="отхвърлено|отхвърлям|отхвърлен|отхвърлена|отказано|отказвам|неодобрено|не одобрявам|=не е одобрено"
        "|не съм съгласен|не съм съгласна",
        subject="заявката е|поръчката е|фактурата е|искането е",
        object="заявката|тази заявка|поръчката|тази поръчка|фактурата|искането|покупката",
        doubt="не|никога|ако|освен|само|при условие|условие|обаче|въпреки|изчакайте|грешка|може би|частично|отменям"
        "|отказ|няма|докато|но",
        harmless="няма проблем|нямам възражения",
        courtesy="благодаря|благодаря ви|много благодаря|мерси|поздрави|с уважение|хубав ден|приятен ден|лек ден"
        "|добра работа",
        greeting="здравейте|здравей|добър ден|добро утро|привет|уважаеми|уважаема",
    ),
    Language(
        "el",
        approve="εγκρίνεται|εγκρίθηκε|εγκρίνω|εγκεκριμένο|εγκεκριμένη|εγκρίνουμε|το εγκρίνω|εγκρίνετε"
        "|η αίτηση εγκρίνεται|εγκρίνονται|συμφωνώ|συμφωνούμε",
        reject="απορρίπτεται|απορρίφθηκε|απορρίπτω|απορρίπτουμε|το απορρίπτω|απόρριψη|απορριφθεί|απορριπτέο|αρνούμαι"
        "|δεν εγκρίνω|δεν το εγκρίνω|=δεν εγκρίνεται|=δεν εγκρίθηκε|=μη εγκεκριμένο|δεν συμφωνώ",
        subject="το αίτημα|η αίτηση|η παραγγελία|το τιμολόγιο",
        object="το αίτημα|αυτό το αίτημα|το αίτημά σας|την αίτηση|την παραγγελία|το τιμολόγιο|την αγορά",
        doubt="δεν|δε|μη|μην|ποτέ|όχι|αν|εάν|εφόσον|υπό τον όρο|υπό όρους|προϋπόθεση|όρο|όρους|εκτός|μόνο|μόνον|μέχρι"
        "|ωστόσο|αλλά|όμως|αν και|περιμένετε|περίμενε|λάθος|εκ παραδρομής|ίσως|μερικώς|δυστυχώς|ανακαλώ|ακυρώνω"
        "|ακυρώνεται|αγνοήστε|προσωρινά|διαφορετικά|επιφύλαξη|χωρίς έγκριση|ακόμα|ακόμη|μόλις",
        harmless="δεν υπάρχει πρόβλημα|κανένα πρόβλημα|δεν έχω αντίρρηση|χωρίς επιφύλαξη",
        courtesy="ευχαριστώ|ευχαριστούμε|ευχαριστώ πολύ|σας ευχαριστώ|πολλές ευχαριστίες|ευχαριστώ για τη βοήθεια"
        "|χαιρετισμούς|με εκτίμηση|φιλικά|φιλικούς χαιρετισμούς|καλή σας μέρα|καλή μέρα|καλή συνέχεια|καλό βράδυ"
        "|καλό σαββατοκύριακο|καλή δουλειά|μπράβο|ευχαρίστως|με φιλικούς χαιρετισμούς|ευχαριστώ εκ των προτέρων",
        greeting="γεια|γεια σας|γεια σου|καλημέρα|καλησπέρα|χαίρετε|αγαπητέ|αγαπητή|αγαπητοί|αξιότιμε|αξιότιμη"
        "|καλημέρα σας|καλησπέρα σας|γειά σας",
    ),
    Language(
        "tr",
        approve="onaylandı|onaylıyorum|onaylanmıştır|onaylıyoruz|onayladım|onaylı|onaylarım|onay verildi"
        "|onay veriyorum|onayla|kabul edildi|kabul ediyorum|talep onaylandı|uygundur",
        reject="reddedildi|reddediyorum|reddedilmiştir|reddediyoruz|reddettim|reddet|ret edildi|red edildi"
        "|ret edilmiştir|=red|=ret|onaylanmadı|onaylamıyorum|onaylanmamıştır|onaylamadım|onaylamıyoruz|kabul edilmedi"
        "|kabul etmiyorum|talep reddedildi|uygun değildir|=uygun değil|onay verilmedi|onay vermiyorum",
        subject="talep|talebi|bu talebi|talebinizi|isteği|sipariş|siparişi|fatura|faturayı",
        doubt="değil|değildir|asla|eğer|şayet|şartıyla|koşuluyla|şart|şartı|koşul|koşulu|hariç|dışında|sadece"
        "|yalnızca|ancak|fakat|lakin|rağmen|bekleyin|bekle|beklesin|yanlışlıkla|hata|yanlış|belki|kısmen|maalesef"
        "|iptal|geri çekiyorum|yok sayın|geçici|aksi|hayır|yok|henüz|sürece|takdirde|bekliyor|kaydıyla|ise|ederse"
        "|olursa|verirse|gelirse|yeterse|yeterliyse|uygunsa|varsa|onaylarsa",
        own="kadar|sonra|mı|mi|mu|mü|ama",
        harmless="sorun yok|problem yok|itirazım yok|bir sorun yok|sorun değil",
        courtesy="teşekkürler|teşekkür ederim|teşekkür ederiz|çok teşekkürler|çok teşekkür ederim|sağ ol|sağolun"
        "|sağ olun|şimdiden teşekkürler|yardımınız için teşekkürler|emeğinize sağlık|elinize sağlık|saygılarımla"
        "|saygılar|iyi çalışmalar|kolay gelsin|iyi günler|iyi günler dilerim|iyi akşamlar|iyi hafta sonları|selamlar"
        "|sevgiler|en iyi dileklerimle|rica ederim|memnuniyetle",
        greeting="merhaba|merhabalar|selam|selamlar|günaydın|iyi günler|iyi akşamlar|sayın|değerli|sevgili"
        "|herkese merhaba|sayın yetkili",
    ),
    Language(
        "he",
        approve="מאושר|מאושרת|אושר|אושרה|מאשר|מאשרת|אני מאשר|אני מאשרת|אישרתי|מאשרים|הבקשה אושרה|לאשר",
        reject="נדחה|נדחתה|דוחה|אני דוחה|דחוי|דחייה|דחיתי|סורב|סירוב|מסרב|מסרבת|לדחות|הבקשה נדחתה|לא מאושר|לא מאושרת"
        "|לא מאשר|לא מאשרת|לא אושר|אינו מאושר|אני לא מאשר",
        subject="הבקשה|הבקשה שלך|ההזמנה|החשבונית",
        object="את הבקשה|את ההזמנה|את החשבונית|את זה",
        doubt="לא|האם|אין|אם|בתנאי|בתנאים|תנאי|אלא|חוץ|למעט|רק|אבל|אולם|אך|עד|המתן|להמתין|תמתינו|טעות|בטעות|אולי"
        "|חלקית|לצערי|מבטל|ביטול|לבטל|התעלמו|זמני|אחרת|בלי|מלבד|בכפוף|ולא|שלא|אינו|אינה|טרם|עדיין",
        harmless="אין בעיה|אין התנגדות|אין הערות|ללא הערות|אין לי התנגדות|אין בעיות",
        courtesy="תודה|תודה רבה|רב תודות|תודה לכולם|תודה מראש|תודה על העזרה|בברכה|בכבוד רב|יום טוב|יום נעים"
        "|המשך יום טוב|סוף שבוע נעים|שבת שלום|כל הכבוד|עבודה טובה|בשמחה|בהצלחה|שבוע טוב|ערב טוב",
        greeting="שלום|היי|הי|בוקר טוב|ערב טוב|צהריים טובים|לכבוד|שלום רב|שלום לכולם|יקר|אהלן",
    ),
    Language(
        "ar",
        approve="موافق|موافقة|تمت الموافقة|أوافق|نوافق|معتمد|تم الاعتماد|اعتمد|مقبول|تم القبول|تمت الموافقة على الطلب"
        "|أنا موافق|أنا موافقة|وافقت|مصادق عليه|مع الموافقة|تم اعتماده|تمت المصادقة",
        reject="مرفوض|مرفوضة|رفض|أرفض|نرفض|تم الرفض|تم رفض|رفضت|غير موافق|غير موافقة|لا أوافق|لا نوافق|غير معتمد"
        "|غير مقبول|لم تتم الموافقة|لم يتم الاعتماد|=لا موافقة|تم رفض الطلب|عدم الموافقة",
        object="على الطلب|على هذا الطلب|على طلبكم|على طلبك|على الشراء|على الفاتورة",
        doubt="لا|هل|لم|لن|ليس|ليست|غير|إذا|اذا|لو|بشرط|شرط|شريطة|شروط|إلا|الا|باستثناء|ما عدا|فقط|لكن|ولكن|حتى|انتظر"
        "|انتظروا|خطأ|بالخطأ|ربما|جزئيا|للأسف|ألغي|إلغاء|تجاهل|تجاهلوا|مؤقت|مؤقتا|بدون|عندما|ريثما|مبدئيا|دون|عدم|كلا"
        "|ولا",
        harmless="لا مانع|لا توجد مشكلة|لا مشكلة|لا اعتراض|لا توجد ملاحظات|بدون ملاحظات",
        courtesy="شكرا|شكرا لك|شكرا لكم|شكرا جزيلا|جزيل الشكر|مع الشكر|مع جزيل الشكر|مشكور|مشكورين|شكراً|تحياتي"
        "|مع تحياتي|مع أطيب التحيات|أطيب التحيات|تحية طيبة|مع التحية|وتفضلوا بقبول فائق الاحترام|يوم سعيد|نهارك سعيد"
        "|عمل رائع|عمل جيد|أحسنتم|بارك الله فيك|بارك الله فيكم|بكل سرور|مع الاحترام|مع خالص التحية",
        greeting="مرحبا|أهلا|السلام عليكم|السلام عليكم ورحمة الله|السلام عليكم ورحمة الله وبركاته|صباح الخير"
        "|مساء الخير|تحية طيبة|عزيزي|عزيزتي|السيد|السيدة|الأخ|الأخت|وعليكم السلام",
    ),
    Language(
        "fa",
        approve="تأیید شد|تایید شد|تأیید می‌شود|تایید می‌شود|تایید میشود|موافقم|موافقت شد|تصویب شد|تأیید|تایید|تایید است",
        reject="رد شد|رد می‌شود|رد میشود|مخالفم|تأیید نشد|تایید نشد|مخالفت شد|=رد",
        doubt="نیست|نشود|اگر|مگر|اما|ولی|فقط|به شرط|شرط|تا زمانی|اشتباه|شاید|لغو|نه|نمی|بجز|بدون",
        courtesy="متشکرم|ممنون|با تشکر|سپاس|سپاسگزارم|خیلی ممنون|با احترام|روز خوش|روز بخیر|خسته نباشید",
        greeting="سلام|درود|با سلام|سلام و احترام|صبح بخیر|با سلام و احترام",
    ),
    Language(
        "zh",
        approve="批准|已批准|同意|我同意|我批准|核准|已核准|通过|审批通过|审核通过|批准通过|准许|通過|審核通過"
        "|已同意|予以批准|同意批准|准|批准了|准予|本人同意|核可|同意了|审批同意|准了|通过了|同意该申请|我同意该申请"
        "|同意此申请|同意申请|批准该申请|批准此申请|批准申请|我批准该申请|同意此申請|我同意此申請|同意該申請"
        "|核准此申請|核准該申請",
        reject="拒绝|已拒绝|驳回|已驳回|不同意|不批准|否决|拒絕|已拒絕|駁回|已駁回|不准|不予批准|未批准|不通过|不核准"
        "|不通過|否決|退回|我拒绝|我不同意|不予通过|不予核准|未通过|未通過|我拒絕|审批不通过|审核不通过|打回",
        doubt="不|没|沒|未|无法|無法|别|勿|非|但是|但|如果|若|除非|只|仅|僅|前提|条件|條件|暂|暫|取消|撤回|撤销|撤銷"
        "|误|誤|可能|也许|部分|遗憾|遺憾|否则|否則|拒|驳|駁|否决|否決|忽略|吗|嗎|呢|一旦|只要|然而|除了|直到|之前"
        "|等待|稍等|等一|待定|待审|待批|是否",
        harmless="不错|不錯|没问题|沒問題|没有问题|沒有問題|不客气|不客氣|无异议|無異議|没有异议|没意见|沒意見"
        "|没有意见|不用谢|非常|无意见|不胜感激|特别|级别|分别|未来|特別",
        courtesy="谢谢|謝謝|多谢|多謝|感谢|感謝|谢谢大家|谢谢您|謝謝您|谢谢你|非常感谢|非常感謝|辛苦了|大家辛苦了"
        "|您辛苦了|祝好|此致敬礼|此致|敬礼|祝工作顺利|祝工作愉快|祝您工作愉快|祝您愉快|周末愉快|祝周末愉快|做得好"
        "|干得好|顺祝商祺|祝您有美好的一天|祝你有美好的一天|请继续|請繼續|十分感谢|感谢您的支持|感谢支持|感谢帮助"
        "|谢谢你的帮助|谢谢支持",
        greeting="你好|您好|大家好|早上好|上午好|下午好|晚上好|尊敬的|亲爱的|各位好|各位|早安|午安|敬启者|hi",
        together=True,
    ),
    Language(
        "ja",
        approve="承認|承認します|承認いたします|承認致します|承認しました|承認いたしました|承認済み|承認済|承認です"
        "|承認する|承認されました|許可します|許可|許可いたします|可決|認めます|承認とします|承認で"
        "|承認させていただきます|決裁します|申請を承認します|申請を承認いたします|申請を承認しました"
        "|発注を承認します|本件を承認します|本件を承認いたします|本件承認します|本件承認いたします|本件承認しました",
        reject="却下|却下します|却下いたします|却下致します|却下しました|却下です|却下とします|拒否|拒否します"
        "|拒否いたします|否認|否認します|否決|差し戻し|差し戻します|差戻し|差戻|差戻します|不承認|不承認とします"
        "|不承認です|不許可|承認しません|承認できません|承認いたしません|承認いたしかねます|承認できかねます"
        "|承認不可|認めません|許可しません|非承認|承認しない|承認できない|申請を却下します|申請を却下いたします"
        "|本件を却下します|本件却下します|本件却下いたします",
        subject="本件|本件は|上記|申請|ご申請",
        doubt="ない|なく|なけれ|ません|しかし|ただし|但し|もし|場合|だけ|のみ|条件|保留|待っ|待ち|待機|取り消|取消"
        "|撤回|間違|誤|かも|一部|残念|以外|除く|除い|れば|たら|なら|却下|拒否|否認|差し戻|差戻|不承認|けど|けれど"
        "|ですが|ますが|か。|でしょうか|ですか|ますか|仮に|仮の|暫定|無視|未承認|非承認|キャンセル|中止|否決|誰が"
        "|ましたか",
        harmless="問題ありません|問題ない|問題なし|問題無い|異議ありません|異議なし|差し支えありません|すみません"
        "|構いません|特にありません|コメントはありません|申し訳ありません|申し訳ございません|ご確認ください|お待たせ"
        "|間違いありません|これまで|皆さまで|ありがたく|いただけ|頂け|恐れ入りますが|お手数ですが"
        "|お手数をおかけしますが|問題なく|間もなく",
        courtesy="ありがとうございます|ありがとうございました|有難うございます|有り難うございます|ありがとう"
        "|どうもありがとうございます|どうもありがとう|お願いします|お願いいたします|お願い致します"
        "|よろしくお願いします|よろしくお願いいたします|よろしくお願い致します|宜しくお願いします"
        "|宜しくお願いいたします|宜しくお願い致します|どうぞよろしくお願いします|どうぞよろしくお願いいたします|以上"
        "|以上です|以上よろしくお願いします|以上よろしくお願いいたします|お疲れ様です|お疲れ様でした|お疲れさまです"
        "|敬具|感謝します|感謝いたします|進めてください|お進めください|引き続きよろしくお願いします"
        "|引き続きよろしくお願いいたします|良い一日を|良い週末を|よい週末を|いつもありがとうございます|助かります",
        greeting="こんにちは|おはようございます|こんばんは|お疲れ様です|お疲れさまです|お世話になっております"
        "|お世話になります|いつもお世話になっております|拝啓|お疲れ様でございます|各位|皆様|皆さん|御中",
        together=True,
    ),
    Language(
        "ko",
        approve="승인|승인합니다|승인함|승인됨|승인되었습니다|승인했습니다|승인 완료|승인완료|승인드립니다|허가"
        "|허가합니다|결재 승인|결재승인|재가|승인해 드립니다|승인입니다|허락합니다|가결|동의합니다|승인한다"
        "|결재합니다|결재했습니다",
        reject="거부|거부합니다|거부함|거부됨|거부되었습니다|거부했습니다|거절|거절합니다|거절함|거절됨"
        "|거절되었습니다|반려|반려합니다|반려함|반려됨|반려되었습니다|반려했습니다|기각|기각합니다|불승인"
        "|불승인합니다|불허|미승인|부결|승인하지 않습니다|승인할 수 없습니다|승인 불가|승인불가|승인 거부|승인거부"
        "|승인하지 않음|승인 안 함|승인 안함|동의하지 않습니다",
        subject="요청을|요청이|신청을|신청이|신청 건|요청 건|주문을|구매를|본 건|본 건을|해당 건|발주|주문|구매|신청"
        "|요청",
        doubt="않|못|없|아니|안 됩|안됩|안 돼|안돼|하지만|그러나|만약|만일|경우|조건|단,|다만|제외|보류|대기|기다"
        "|취소|철회|실수|잘못|아마|일부|유감|거부|거절|반려|기각|불승인|미승인|무시|하면|되면|라면|뿐|까요|니까|나요"
        "|임시|가승인|우선은|불가|불허|부결|중지",
        harmless="안녕하십니까|문제없|문제 없|이의 없|이의없|의견 없|의견없|다름 아니|없이 진행|특이사항 없|끊임없"
        "|틀림없",
        courtesy="감사합니다|고맙습니다|감사드립니다|대단히 감사합니다|정말 감사합니다|감사해요|수고하셨습니다"
        "|수고하세요|수고 많으셨습니다|수고하십시오|수고 많으십니다|좋은 하루 되세요|좋은 하루 보내세요"
        "|좋은 주말 되세요|좋은 주말 보내세요|진행해 주세요|진행해주세요|진행 바랍니다|진행하세요|부탁드립니다"
        "|잘 부탁드립니다|드림|올림|안녕히 계세요|이상입니다|잘하셨습니다|항상 감사합니다|도와주셔서 감사합니다"
        "|늘 감사합니다",
        greeting="안녕하세요|안녕하십니까|좋은 아침입니다|수고하십니다|안녕|여러분 안녕하세요|반갑습니다"
        "|수고 많으십니다",
        together=True,
    ),
    Language(
        "th",
        approve="อนุมัติ|อนุมัติแล้ว|ขออนุมัติแล้ว|อนุมัติครับ|อนุมัติค่ะ|อนุญาต|เห็นชอบ|ผ่านการอนุมัติ|ได้รับอนุมัติ",
        reject="ไม่อนุมัติ|ปฏิเสธ|ไม่อนุญาต|ไม่เห็นชอบ|ไม่ผ่าน|ไม่อนุมัติครับ|ไม่อนุมัติค่ะ",
        doubt="ไม่|แต่|ถ้า|หาก|ยกเว้น|เท่านั้น|เงื่อนไข|ยกเลิก|รอ|ผิด|บางส่วน|ปฏิเสธ|อย่า|เมื่อ|หรือ|ไหม|มั้ย",
        harmless="การอนุมัติ|ไม่มีปัญหา|ไม่ขัดข้อง|ไม่มีข้อคัดค้าน|เรียบร้อย|ครอบ",
        courtesy="ขอบคุณ|ขอบคุณครับ|ขอบคุณค่ะ|ขอบคุณมาก|ขอบคุณมากครับ|ขอบคุณมากค่ะ|ครับ|ค่ะ|ด้วยความเคารพ",
        greeting="สวัสดี|สวัสดีครับ|สวัสดีค่ะ|เรียน",
        together=True,
    ),
    Language(
        "vi",
        approve="phê duyệt|đã phê duyệt|tôi phê duyệt|đồng ý phê duyệt|chấp thuận|đã chấp thuận|duyệt|đã duyệt"
        "|tôi duyệt|tôi đồng ý|đồng ý",
        reject="từ chối|đã từ chối|tôi từ chối|không phê duyệt|không duyệt|không đồng ý|không chấp thuận|bác bỏ"
        "|đã bác bỏ",
        subject="yêu cầu|yêu cầu này|đơn hàng",
        object="yêu cầu|yêu cầu này|đơn hàng|đơn hàng này|đề nghị này",
        doubt="không|chưa|nếu|trừ khi|nhưng|tuy nhiên|chỉ|ngoại trừ|với điều kiện|điều kiện|chờ|đợi|nhầm|có thể"
        "|một phần|rất tiếc|thu hồi|hủy|huỷ|bỏ qua|tạm thời|đừng|mặc dù|cho đến khi|sau khi",
        harmless="không có vấn đề|không vấn đề gì|không có ý kiến|không có gì",
        courtesy="cảm ơn|cám ơn|xin cảm ơn|cảm ơn bạn|cảm ơn anh|cảm ơn chị|cảm ơn nhiều|trân trọng|thân ái|thân mến"
        "|chúc một ngày tốt lành|chúc bạn một ngày tốt lành|làm tốt lắm",
        greeting="chào|xin chào|kính gửi|chào anh|chào chị|chào bạn|thân gửi|chào mọi người",
    ),
    Language(
        "id",
        approve="disetujui|setuju|saya setuju|saya setujui|menyetujui|saya menyetujui|telah disetujui|sudah disetujui"
        "|diluluskan|disahkan",
        reject="ditolak|tolak|saya tolak|saya menolak|menolak|tidak disetujui|tidak setuju|telah ditolak"
        "|tidak diluluskan",
        doubt="tidak|bukan|jangan|belum|jika|kalau|apabila|kecuali|tetapi|tapi|namun|hanya|dengan syarat|syarat"
        "|asalkan|tunggu|menunggu|salah|keliru|mungkin|sebagian|sayangnya|batal|batalkan|dibatalkan|abaikan|sementara"
        "|meskipun|sampai|setelah",
        own="tak",
        harmless="tidak ada masalah|tidak masalah|tidak ada keberatan|tidak ada komentar",
        courtesy="terima kasih|terimakasih|makasih|terima kasih banyak|terima kasih semua|salam|hormat saya"
        "|salam hormat|selamat bekerja|kerja bagus|sama-sama|semoga harimu menyenangkan|trims",
        greeting="halo|hai|selamat pagi|selamat siang|selamat sore|selamat malam|yth|kepada|assalamualaikum"
        "|dengan hormat|bapak|ibu",
    ),
    Language(
        "hi",
        approve="स्वीकृत|अनुमोदित|मंजूर|मंज़ूर|मैं स्वीकृत करता हूँ|मैं स्वीकृत करती हूँ|स्वीकृत है|अनुमोदित है|मंजूर है",
        reject="अस्वीकृत|अस्वीकार|नामंजूर|नामंज़ूर|अस्वीकृत है|खारिज|मैं अस्वीकार करता हूँ|स्वीकृत नहीं",
        doubt="नहीं|न|मत|यदि|अगर|लेकिन|परंतु|परन्तु|किंतु|केवल|सिर्फ|शर्त|बशर्ते|सिवाय|गलती|शायद|रद्द|प्रतीक्षा|जब तक|क्या",
        courtesy="धन्यवाद|बहुत धन्यवाद|बहुत बहुत धन्यवाद|शुक्रिया|सादर|आभार",
        greeting="नमस्ते|नमस्कार|प्रिय|आदरणीय",
    ),
    Language(
        "hr",
        approve="odobreno|odobravam|odobren|odobrena|odobravamo|odobravam zahtjev|odobri|suglasan sam|suglasna sam"
        "|одобрено|одобравам|odobravam zahtev|saglasan sam|slažem se|slažemo se",
        reject="odbijeno|odbijam|odbijen|odbijena|odbijamo|odbaceno|odbačeno|neodobreno|ne odobravam|zavrnjeno"
        "|zavračam|одбијено|одбијам|ne slažem se|nisam suglasan|nisam suglasna",
        subject="zahtjev je|narudžba je|račun je",
        object="zahtjev|ovaj zahtjev|narudžbu|ovu narudžbu|račun",
        doubt="nikada|nikad|ako|osim|samo|pod uvjetom|uvjet|uslov|pod uslovom|međutim|iako|pričekajte|čekajte|greškom"
        "|greška|možda|djelomično|nažalost|povlačim|otkazujem|poništi|ukoliko|nije|nisam|nemojte",
        own="ne|ali|dok|kad",
        harmless="nema problema|nemam primjedbi|nemam prigovora",
        courtesy="hvala|hvala lijepa|hvala lepo|puno hvala|hvala vam|hvala unaprijed|lijep pozdrav|srdačan pozdrav"
        "|pozdrav|s poštovanjem|lp|ugodan dan|lijep dan|dobar posao",
        greeting="bok|pozdrav|dobar dan|dobro jutro|poštovani|poštovana|dragi|draga|zdravo",
    ),
    Language(
        "sl",
        approve="odobreno|odobravam|odobrujem|odobren|odobrena|potrjeno|potrjujem",
        reject="zavrnjeno|zavračam|zavrnjen|zavrnjena|neodobreno|ne odobravam|ne potrjujem|odklonjeno|odklanjam",
        doubt="nikoli|razen|samo|pod pogojem|pogoj|vendar|čeprav|počakajte|napaka|pomotoma|mogoče|delno|žal|preklic"
        "|preklicujem|nisem|dokler",
        own="če|ne|ampak|ko|ni",
        courtesy="hvala|hvala lepa|najlepša hvala|lep pozdrav|lp|s spoštovanjem|lep dan|lepo pozdravljeni|dobro delo",
        greeting="živjo|pozdravljeni|dober dan|dobro jutro|spoštovani|spoštovana|dragi|draga|zdravo",
    ),
    Language(
        "et",
        approve="kinnitatud|kinnitan|kinnitame|heaks kiidetud|kiidan heaks|heakskiidetud|lubatud",
        reject="tagasi lükatud|lükkan tagasi|keeldutud|keeldun|ei kinnita|ei kiida heaks|tagasilükatud"
        "|mitte kinnitatud",
        doubt="mitte|kunagi|kui|juhul|välja arvatud|ainult|tingimusel|tingimus|kuid|aga|siiski|oota|oodake|viga"
        "|ekslikult|võib-olla|osaliselt|kahjuks|tühistan|tühistada|kuni",
        own="ei",
        harmless="ei ole probleemi|probleemi ei ole|vastuväiteid ei ole",
        courtesy="aitäh|tänan|suur aitäh|suur tänu|tänud|lugupidamisega|parimate soovidega|tervitades|head päeva"
        "|ilusat päeva|head nädalavahetust|hea töö|tervitustega",
        greeting="tere|tervist|tere hommikust|lugupeetud|kallis|hei|tere päevast",
    ),
    Language(
        "lv",
        approve="apstiprināts|apstiprinu|apstiprināta|apstiprinām|apstiprināt|piekrītu|saskaņots|atļauts",
        reject="noraidīts|noraidu|noraidīta|noraidām|noraidīt|atteikts|neapstiprinu|nepiekrītu|neapstiprināts|atsaku",
        doubt="nekad|izņemot|tikai|ar nosacījumu|nosacījums|tomēr|lai gan|gaidiet|kļūda|kļūdas|varbūt|daļēji|diemžēl"
        "|atceļu|atcelt|kamēr",
        own="ja|bet|ne|nav",
        harmless="nav iebildumu|nav problēmu",
        courtesy="paldies|liels paldies|ar cieņu|labdien|jauku dienu|lai jauka diena|labs darbs|sveicieni",
        greeting="sveiki|labdien|labrīt|labvakar|cienījamais|cienījamā|godātais|sveika|čau",
    ),
    Language(
        "lt",
        approve="patvirtinta|patvirtinu|patvirtintas|patvirtiname|patvirtinti|pritariu|leista|leidžiu|suderinta",
        reject="atmesta|atmetu|atmestas|atmetame|atmesti|nepatvirtinta|nepatvirtinu|nepritariu|atsisakau|neleidžiu",
        doubt="nėra|niekada|jei|jeigu|išskyrus|tiktai|su sąlyga|sąlyga|tačiau|palaukite|klaida|per klaidą|galbūt"
        "|iš dalies|atšaukiu|atšaukti",
        own="tik|deja|kol|ne|bet|nors",
        harmless="nėra problemų|prieštaravimų nėra",
        courtesy="ačiū|labai ačiū|dėkoju|dėkui|pagarbiai|su pagarba|geros dienos|gero savaitgalio|geras darbas"
        "|linkėjimai",
        greeting="labas|sveiki|laba diena|labas rytas|labas vakaras|gerbiamas|gerbiama|gerbiamieji|sveikas",
    ),
    Language(
        "ca",
        approve="aprovat|aprovem|s'aprova|autoritzat|autoritzo|vistiplau",
        reject="rebutjat|rebutjada|rebutjo|rebutgem|denegat|denegada|denego|no aprovo|=no aprovat",
        doubt="però|excepte|llevat|només|sempre que|condició|tanmateix|encara que|pendent|error|anul·lar|espera"
        "|potser|parcialment|malauradament",
        own="si|quan|no|mai|cap",
        courtesy="gràcies|moltes gràcies|moltíssimes gràcies|salutacions|atentament|cordialment|bon dia|bona feina",
        greeting="hola|bon dia|bona tarda|benvolgut|benvolguda|bon vespre",
    ),
)
